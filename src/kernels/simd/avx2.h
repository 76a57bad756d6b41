#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/simd/half_types.h"
#include "kernels/simd/target.h"

// The SIMD vocabulary for AVX2, FMA and F16C; kernels/simd/scalar.h says what each word means.
COTERIE_BEGIN_AVX2
namespace coterie::kernels::avx2 {

inline constexpr int64_t kWidth = 8;
inline constexpr int64_t kWidthDouble = 4;
inline constexpr int64_t kRegisters = 16;

using Vf = __m256;   // floats
using Vd = __m256d;  // doubles
using Vi = __m256i;  // 32-bit integers, pairs of 16 bits or four bytes a lane
struct Mask {
  __m256i raw;  // all bits of a lane, or none
};

COTERIE_INLINE Vf set(float value) { return _mm256_set1_ps(value); }
COTERIE_INLINE Vf zero() { return _mm256_setzero_ps(); }

COTERIE_INLINE Mask mask_first(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane)};
}
COTERIE_INLINE Mask mask_range(int64_t begin, int64_t end) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(begin)), lane),
                              _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(end)), lane))};
}
COTERIE_INLINE Vf select(Mask mask, Vf yes, Vf no) { return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(mask.raw)); }

COTERIE_INLINE Vf load(const float* p) { return _mm256_loadu_ps(p); }
COTERIE_INLINE Vf load(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
COTERIE_INLINE Vf load(const Bfloat* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
COTERIE_INLINE Vf load(const Code* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
COTERIE_INLINE Vf load_first(const float* p, int64_t n) { return _mm256_maskload_ps(p, mask_first(n).raw); }
// There are no masked loads and stores of 8 and 16 bits: through a copy.
template <typename T>
COTERIE_INLINE Vf load_first(const T* p, int64_t n) {
  T copy[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) copy[i] = p[i];
  return load(copy);
}
COTERIE_INLINE void store(float* p, Vf v) { _mm256_storeu_ps(p, v); }
COTERIE_INLINE void store(Half* p, Vf v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
COTERIE_INLINE void store(Bfloat* p, Vf v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i wide = _mm256_blendv_epi8(rounded, quiet, nan);
  const __m128i narrow = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow);
}
COTERIE_INLINE void store_first(float* p, Vf v, int64_t n) { _mm256_maskstore_ps(p, mask_first(n).raw, v); }
template <typename T>
COTERIE_INLINE void store_first(T* p, Vf v, int64_t n) {
  T copy[kWidth];
  store(copy, v);
  for (int64_t i = 0; i < n; ++i) p[i] = copy[i];
}

COTERIE_INLINE Vf add(Vf a, Vf b) { return _mm256_add_ps(a, b); }
COTERIE_INLINE Vf sub(Vf a, Vf b) { return _mm256_sub_ps(a, b); }
COTERIE_INLINE Vf mul(Vf a, Vf b) { return _mm256_mul_ps(a, b); }
COTERIE_INLINE Vf div(Vf a, Vf b) { return _mm256_div_ps(a, b); }
COTERIE_INLINE Vf min(Vf a, Vf b) { return _mm256_min_ps(a, b); }
COTERIE_INLINE Vf max(Vf a, Vf b) { return _mm256_max_ps(a, b); }
COTERIE_INLINE Vf fma(Vf a, Vf b, Vf c) { return _mm256_fmadd_ps(a, b, c); }
COTERIE_INLINE Vf abs(Vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
COTERIE_INLINE Vf copy_sign(Vf a, Vf b) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b));
}
COTERIE_INLINE Vf sqrt(Vf a) { return _mm256_sqrt_ps(a); }
COTERIE_INLINE Vf round(Vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
COTERIE_INLINE Mask less(Vf a, Vf b) { return {_mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ))}; }
COTERIE_INLINE Vf scale_by_power(Vf a, Vf n) {
  const __m256i power = _mm256_cvtps_epi32(n), bias = _mm256_set1_epi32(127);
  const __m256i half = _mm256_srai_epi32(power, 1), rest = _mm256_sub_epi32(power, half);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

COTERIE_INLINE float reduce_add(Vf a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
COTERIE_INLINE float reduce_max(Vf a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

COTERIE_INLINE Vd set_double(double value) { return _mm256_set1_pd(value); }
COTERIE_INLINE Vd load_wide(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
COTERIE_INLINE void store_narrow(float* p, Vd v) { _mm_storeu_ps(p, _mm256_cvtpd_ps(v)); }
COTERIE_INLINE void store(double* p, Vd v) { _mm256_storeu_pd(p, v); }
COTERIE_INLINE Vd add(Vd a, Vd b) { return _mm256_add_pd(a, b); }
COTERIE_INLINE Vd sub(Vd a, Vd b) { return _mm256_sub_pd(a, b); }
COTERIE_INLINE Vd mul(Vd a, Vd b) { return _mm256_mul_pd(a, b); }
COTERIE_INLINE Vd fma(Vd a, Vd b, Vd c) { return _mm256_fmadd_pd(a, b, c); }
COTERIE_INLINE Vd round(Vd a) { return _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
COTERIE_INLINE Vd select_nonzero(Vd test, Vd yes, Vd no) {
  return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(test, _mm256_setzero_pd(), _CMP_NEQ_UQ));
}

// Integers: the words of products of quantised numbers (kernels/matmul/*.inl.h). A lane is of 32 bits: an integer, two
// of 16 bits or four bytes.
COTERIE_INLINE Vi zero_int() { return _mm256_setzero_si256(); }
COTERIE_INLINE Vi set_int(uint32_t v) { return _mm256_set1_epi32(static_cast<int>(v)); }
COTERIE_INLINE Vi load_int(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
COTERIE_INLINE void store_int(void* p, Vi v) { _mm256_store_si256(static_cast<__m256i*>(p), v); }
COTERIE_INLINE Vi broadcast4(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
COTERIE_INLINE Vi broadcast16(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
COTERIE_INLINE Vi bits_and(Vi a, Vi b) { return _mm256_and_si256(a, b); }
COTERIE_INLINE Vi bits_or(Vi a, Vi b) { return _mm256_or_si256(a, b); }
/// (a & mask) | b
COTERIE_INLINE Vi and_or(Vi a, Vi mask, Vi b) { return _mm256_or_si256(_mm256_and_si256(a, mask), b); }
template <int n>
COTERIE_INLINE Vi shift(Vi v) {  // to the left by n, or to the right by -n with zeros
  if constexpr (n > 0) return _mm256_slli_epi32(v, n);
  if constexpr (n < 0) return _mm256_srli_epi32(v, -n);
  return v;
}
template <int n>
COTERIE_INLINE Vi shift_right_signed(Vi v) {
  return _mm256_srai_epi32(v, n);
}
/// Both 16-bit numbers of each lane.
template <int n>
COTERIE_INLINE Vi shift_right_halves(Vi v) {
  return _mm256_srai_epi16(v, n);
}
/// As shift<n>, for loops that are unrolled.
COTERIE_INLINE Vi shift_by(Vi v, int n) { return n < 0 ? _mm256_srli_epi32(v, -n) : _mm256_slli_epi32(v, n); }
COTERIE_INLINE Vi add_int(Vi a, Vi b) { return _mm256_add_epi32(a, b); }
COTERIE_INLINE Vi sub_int(Vi a, Vi b) { return _mm256_sub_epi32(a, b); }
COTERIE_INLINE Vi sub_bytes(Vi a, Vi b) { return _mm256_sub_epi8(a, b); }
COTERIE_INLINE Vi mul_int(Vi a, Vi b) { return _mm256_mullo_epi32(a, b); }
COTERIE_INLINE Vi shuffle_bytes(Vi v, Vi pattern) { return _mm256_shuffle_epi8(v, pattern); }
/// Four bytes of a table for each lane, from byte kScale * index on.
template <int kScale>
COTERIE_INLINE Vi gather4(const void* table, Vi index) {
  return _mm256_i32gather_epi32(static_cast<const int*>(table), index, kScale);
}
/// Codes to which kOffset has been added: negative in the bytes where `signs` has the one of `bits`.
template <int kOffset>
COTERIE_INLINE Vi negate_where(Vi codes, Vi signs, Vi bits) {
  const Vi negative = _mm256_cmpeq_epi8(_mm256_and_si256(signs, bits), bits);
  if constexpr (kOffset == 0) return _mm256_sign_epi8(codes, bits_or(negative, set_int(0x01010101)));
  return _mm256_blendv_epi8(codes, sub_bytes(set_int(2 * kOffset * 0x01010101u), codes), negative);
}
COTERIE_INLINE Vi max_unsigned(Vi a, Vi b) { return _mm256_max_epu32(a, b); }
COTERIE_INLINE Vi where_less(Vi a, Vi b, Vi yes, Vi no) {
  return _mm256_blendv_epi8(no, yes, _mm256_cmpgt_epi32(b, a));
}
/// c - a * b
COTERIE_INLINE Vf negated_fma(Vf a, Vf b, Vf c) { return _mm256_fnmadd_ps(a, b, c); }
COTERIE_INLINE Vf to_float(Vi v) { return _mm256_cvtepi32_ps(v); }
COTERIE_INLINE Vi round_to_int(Vf v) { return _mm256_cvtps_epi32(v); }
COTERIE_INLINE Vf as_float(Vi v) { return _mm256_castsi256_ps(v); }
COTERIE_INLINE Vi as_int(Vf v) { return _mm256_castps_si256(v); }
/// The f16 in the low half of each lane.
COTERIE_INLINE Vf half_to_float(Vi v) {
  const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
  return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
/// To the nearest f16, the even one of two.
COTERIE_INLINE Vf round_to_half(Vf v) {
  return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
COTERIE_INLINE uint32_t reduce_max_unsigned(Vi v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
}
COTERIE_INLINE int32_t reduce_add(Vi v) {
  __m128i m = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return _mm_cvtsi128_si32(m);
}
/// Lanes in [-128, 127] as bytes.
COTERIE_INLINE void store_as_bytes(int8_t* p, Vi v) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

}  // namespace coterie::kernels::avx2
COTERIE_END
