#pragma once

// GCC 12 takes the undefined operands inside its own intrinsics for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include <cstdint>

#include "kernels/simd/half_types.h"
#include "kernels/simd/target.h"

// The SIMD vocabulary for AVX-512 F, BW, DQ and VL; kernels/simd/scalar.h says what each word means.
COTERIE_BEGIN_AVX512
namespace coterie::kernels::avx512 {

inline constexpr int64_t kWidth = 16;
inline constexpr int64_t kWidthDouble = 8;
inline constexpr int64_t kRegisters = 32;

using Vf = __m512;   // floats
using Vd = __m512d;  // doubles
using Vi = __m512i;  // 32-bit integers, pairs of 16 bits or four bytes a lane
struct Mask {
  __mmask16 raw;
};

COTERIE_INLINE Vf set(float value) { return _mm512_set1_ps(value); }
COTERIE_INLINE Vf zero() { return _mm512_setzero_ps(); }

COTERIE_INLINE Mask mask_first(int64_t n) { return {static_cast<__mmask16>((1u << n) - 1)}; }
COTERIE_INLINE Mask mask_range(int64_t begin, int64_t end) {
  begin = begin < 0 ? 0 : begin > 16 ? 16 : begin;
  end = end < 0 ? 0 : end > 16 ? 16 : end;
  return {static_cast<__mmask16>(((1u << end) - 1) & ~((1u << begin) - 1))};
}
COTERIE_INLINE Vf select(Mask mask, Vf yes, Vf no) { return _mm512_mask_blend_ps(mask.raw, no, yes); }

COTERIE_INLINE Vf load(const float* p) { return _mm512_loadu_ps(p); }
COTERIE_INLINE Vf load(const Half* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
COTERIE_INLINE Vf widen_bfloat(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
COTERIE_INLINE Vf load(const Bfloat* p) {
  return widen_bfloat(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
COTERIE_INLINE Vf load(const Code* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
COTERIE_INLINE Vf load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(mask_first(n).raw, p); }
COTERIE_INLINE Vf load_first(const Half* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask_first(n).raw, p));
}
COTERIE_INLINE Vf load_first(const Bfloat* p, int64_t n) {
  return widen_bfloat(_mm256_maskz_loadu_epi16(mask_first(n).raw, p));
}
COTERIE_INLINE Vf load_first(const Code* p, int64_t n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask_first(n).raw, p)));
}
COTERIE_INLINE __m256i narrow_half(Vf v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
// By integers: vcvtneps2bf16 would take subnormals for zero.
COTERIE_INLINE __m256i narrow_bfloat(Vf v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, rounded, quiet));
}
COTERIE_INLINE void store(float* p, Vf v) { _mm512_storeu_ps(p, v); }
COTERIE_INLINE void store(Half* p, Vf v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_half(v)); }
COTERIE_INLINE void store(Bfloat* p, Vf v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bfloat(v)); }
COTERIE_INLINE void store_first(float* p, Vf v, int64_t n) { _mm512_mask_storeu_ps(p, mask_first(n).raw, v); }
COTERIE_INLINE void store_first(Half* p, Vf v, int64_t n) {
  _mm256_mask_storeu_epi16(p, mask_first(n).raw, narrow_half(v));
}
COTERIE_INLINE void store_first(Bfloat* p, Vf v, int64_t n) {
  _mm256_mask_storeu_epi16(p, mask_first(n).raw, narrow_bfloat(v));
}

COTERIE_INLINE Vf add(Vf a, Vf b) { return _mm512_add_ps(a, b); }
COTERIE_INLINE Vf sub(Vf a, Vf b) { return _mm512_sub_ps(a, b); }
COTERIE_INLINE Vf mul(Vf a, Vf b) { return _mm512_mul_ps(a, b); }
COTERIE_INLINE Vf div(Vf a, Vf b) { return _mm512_div_ps(a, b); }
COTERIE_INLINE Vf min(Vf a, Vf b) { return _mm512_min_ps(a, b); }
COTERIE_INLINE Vf max(Vf a, Vf b) { return _mm512_max_ps(a, b); }
COTERIE_INLINE Vf fma(Vf a, Vf b, Vf c) { return _mm512_fmadd_ps(a, b, c); }
COTERIE_INLINE Vf abs(Vf a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
COTERIE_INLINE Vf copy_sign(Vf a, Vf b) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(_mm512_andnot_ps(sign, a), _mm512_and_ps(sign, b));
}
COTERIE_INLINE Vf sqrt(Vf a) { return _mm512_sqrt_ps(a); }
COTERIE_INLINE Vf round(Vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
COTERIE_INLINE Mask less(Vf a, Vf b) { return {_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)}; }
COTERIE_INLINE Vf scale_by_power(Vf a, Vf n) { return _mm512_scalef_ps(a, n); }

// Written out: _mm512_reduce_add_ps leaves its order to the compiler.
COTERIE_INLINE float reduce_add(Vf a) {
  const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
COTERIE_INLINE float reduce_max(Vf a) {
  const __m256 y = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

COTERIE_INLINE Vd set_double(double value) { return _mm512_set1_pd(value); }
COTERIE_INLINE Vd load_wide(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
COTERIE_INLINE void store_narrow(float* p, Vd v) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(v)); }
COTERIE_INLINE void store(double* p, Vd v) { _mm512_storeu_pd(p, v); }
COTERIE_INLINE Vd add(Vd a, Vd b) { return _mm512_add_pd(a, b); }
COTERIE_INLINE Vd sub(Vd a, Vd b) { return _mm512_sub_pd(a, b); }
COTERIE_INLINE Vd mul(Vd a, Vd b) { return _mm512_mul_pd(a, b); }
COTERIE_INLINE Vd fma(Vd a, Vd b, Vd c) { return _mm512_fmadd_pd(a, b, c); }
COTERIE_INLINE Vd round(Vd a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
COTERIE_INLINE Vd select_nonzero(Vd test, Vd yes, Vd no) {
  return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(test, _mm512_setzero_pd(), _CMP_NEQ_UQ), no, yes);
}

// Integers: the words of products of quantised numbers (kernels/matmul/*.inl.h). A lane is of 32 bits: an integer, two
// of 16 bits or four bytes.
COTERIE_INLINE Vi zero_int() { return _mm512_setzero_si512(); }
COTERIE_INLINE Vi set_int(uint32_t v) { return _mm512_set1_epi32(static_cast<int>(v)); }
COTERIE_INLINE Vi load_int(const void* p) { return _mm512_load_si512(p); }
COTERIE_INLINE void store_int(void* p, Vi v) { _mm512_store_si512(p, v); }
COTERIE_INLINE Vi broadcast4(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
COTERIE_INLINE Vi broadcast16(const void* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
COTERIE_INLINE Vi bits_and(Vi a, Vi b) { return _mm512_and_si512(a, b); }
COTERIE_INLINE Vi bits_or(Vi a, Vi b) { return _mm512_or_si512(a, b); }
/// (a & mask) | b
COTERIE_INLINE Vi and_or(Vi a, Vi mask, Vi b) { return _mm512_ternarylogic_epi32(a, mask, b, 0xEA); }
template <int n>
COTERIE_INLINE Vi shift(Vi v) {  // to the left by n, or to the right by -n with zeros
  if constexpr (n > 0) return _mm512_slli_epi32(v, n);
  if constexpr (n < 0) return _mm512_srli_epi32(v, -n);
  return v;
}
template <int n>
COTERIE_INLINE Vi shift_right_signed(Vi v) {
  return _mm512_srai_epi32(v, n);
}
/// Both 16-bit numbers of each lane.
template <int n>
COTERIE_INLINE Vi shift_right_halves(Vi v) {
  return _mm512_srai_epi16(v, n);
}
/// As shift<n>, for loops that are unrolled.
COTERIE_INLINE Vi shift_by(Vi v, int n) { return n < 0 ? _mm512_srli_epi32(v, -n) : _mm512_slli_epi32(v, n); }
COTERIE_INLINE Vi add_int(Vi a, Vi b) { return _mm512_add_epi32(a, b); }
COTERIE_INLINE Vi sub_int(Vi a, Vi b) { return _mm512_sub_epi32(a, b); }
COTERIE_INLINE Vi sub_bytes(Vi a, Vi b) { return _mm512_sub_epi8(a, b); }
COTERIE_INLINE Vi mul_int(Vi a, Vi b) { return _mm512_mullo_epi32(a, b); }
COTERIE_INLINE Vi shuffle_bytes(Vi v, Vi pattern) { return _mm512_shuffle_epi8(v, pattern); }
/// Four bytes of a table for each lane, from byte kScale * index on.
template <int kScale>
COTERIE_INLINE Vi gather4(const void* table, Vi index) {
  return _mm512_i32gather_epi32(index, table, kScale);
}
/// Codes to which kOffset has been added: negative in the bytes where `signs` has one of `bits`.
template <int kOffset>
COTERIE_INLINE Vi negate_where(Vi codes, Vi signs, Vi bits) {
  return _mm512_mask_sub_epi8(codes, _mm512_test_epi8_mask(signs, bits), set_int(2 * kOffset * 0x01010101u), codes);
}
COTERIE_INLINE Vi max_unsigned(Vi a, Vi b) { return _mm512_max_epu32(a, b); }
COTERIE_INLINE Vi where_less(Vi a, Vi b, Vi yes, Vi no) {
  return _mm512_mask_mov_epi32(no, _mm512_cmplt_epi32_mask(a, b), yes);
}
/// c - a * b
COTERIE_INLINE Vf negated_fma(Vf a, Vf b, Vf c) { return _mm512_fnmadd_ps(a, b, c); }
COTERIE_INLINE Vf to_float(Vi v) { return _mm512_cvtepi32_ps(v); }
COTERIE_INLINE Vi round_to_int(Vf v) { return _mm512_cvtps_epi32(v); }
COTERIE_INLINE Vf as_float(Vi v) { return _mm512_castsi512_ps(v); }
COTERIE_INLINE Vi as_int(Vf v) { return _mm512_castps_si512(v); }
/// The f16 in the low half of each lane.
COTERIE_INLINE Vf half_to_float(Vi v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }
/// To the nearest f16, the even one of two.
COTERIE_INLINE Vf round_to_half(Vf v) {
  return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
COTERIE_INLINE uint32_t reduce_max_unsigned(Vi v) { return _mm512_reduce_max_epu32(v); }
COTERIE_INLINE int32_t reduce_add(Vi v) { return _mm512_reduce_add_epi32(v); }
/// Lanes in [-128, 127] as bytes.
COTERIE_INLINE void store_as_bytes(int8_t* p, Vi v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}

}  // namespace coterie::kernels::avx512
COTERIE_END
