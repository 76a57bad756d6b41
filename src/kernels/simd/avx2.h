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

struct Vf {
  __m256 raw;
};
struct Vd {
  __m256d raw;
};
struct Mask {
  __m256i raw;  // all bits of a lane, or none
};

COTERIE_INLINE Vf set(float value) { return {_mm256_set1_ps(value)}; }
COTERIE_INLINE Vf zero() { return {_mm256_setzero_ps()}; }

COTERIE_INLINE Mask mask_first(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane)};
}
COTERIE_INLINE Mask mask_range(int64_t begin, int64_t end) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(begin)), lane),
                              _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(end)), lane))};
}
COTERIE_INLINE Vf select(Mask mask, Vf yes, Vf no) {
  return {_mm256_blendv_ps(no.raw, yes.raw, _mm256_castsi256_ps(mask.raw))};
}

COTERIE_INLINE Vf load(const float* p) { return {_mm256_loadu_ps(p)}; }
COTERIE_INLINE Vf load(const Half* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
COTERIE_INLINE Vf load(const Bfloat* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
COTERIE_INLINE Vf load(const Code* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
COTERIE_INLINE Vf load_first(const float* p, int64_t n) { return {_mm256_maskload_ps(p, mask_first(n).raw)}; }
// There are no masked loads and stores of 8 and 16 bits: through a copy.
template <typename T>
COTERIE_INLINE Vf load_first(const T* p, int64_t n) {
  T copy[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) copy[i] = p[i];
  return load(copy);
}
COTERIE_INLINE void store(float* p, Vf v) { _mm256_storeu_ps(p, v.raw); }
COTERIE_INLINE void store(Half* p, Vf v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v.raw, _MM_FROUND_TO_NEAREST_INT));
}
COTERIE_INLINE void store(Bfloat* p, Vf v) {
  const __m256i bits = _mm256_castps_si256(v.raw);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v.raw, v.raw, _CMP_UNORD_Q));
  const __m256i wide = _mm256_blendv_epi8(rounded, quiet, nan);
  const __m128i narrow = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow);
}
COTERIE_INLINE void store_first(float* p, Vf v, int64_t n) { _mm256_maskstore_ps(p, mask_first(n).raw, v.raw); }
template <typename T>
COTERIE_INLINE void store_first(T* p, Vf v, int64_t n) {
  T copy[kWidth];
  store(copy, v);
  for (int64_t i = 0; i < n; ++i) p[i] = copy[i];
}

COTERIE_INLINE Vf add(Vf a, Vf b) { return {_mm256_add_ps(a.raw, b.raw)}; }
COTERIE_INLINE Vf sub(Vf a, Vf b) { return {_mm256_sub_ps(a.raw, b.raw)}; }
COTERIE_INLINE Vf mul(Vf a, Vf b) { return {_mm256_mul_ps(a.raw, b.raw)}; }
COTERIE_INLINE Vf div(Vf a, Vf b) { return {_mm256_div_ps(a.raw, b.raw)}; }
COTERIE_INLINE Vf min(Vf a, Vf b) { return {_mm256_min_ps(a.raw, b.raw)}; }
COTERIE_INLINE Vf max(Vf a, Vf b) { return {_mm256_max_ps(a.raw, b.raw)}; }
COTERIE_INLINE Vf fma(Vf a, Vf b, Vf c) { return {_mm256_fmadd_ps(a.raw, b.raw, c.raw)}; }
COTERIE_INLINE Vf abs(Vf a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.raw)}; }
COTERIE_INLINE Vf copy_sign(Vf a, Vf b) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(sign, a.raw), _mm256_and_ps(sign, b.raw))};
}
COTERIE_INLINE Vf sqrt(Vf a) { return {_mm256_sqrt_ps(a.raw)}; }
COTERIE_INLINE Vf round(Vf a) { return {_mm256_round_ps(a.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
COTERIE_INLINE Mask less(Vf a, Vf b) { return {_mm256_castps_si256(_mm256_cmp_ps(a.raw, b.raw, _CMP_LT_OQ))}; }
COTERIE_INLINE Vf scale_by_power(Vf a, Vf n) {
  const __m256i power = _mm256_cvtps_epi32(n.raw), bias = _mm256_set1_epi32(127);
  const __m256i half = _mm256_srai_epi32(power, 1), rest = _mm256_sub_epi32(power, half);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
  return {_mm256_mul_ps(_mm256_mul_ps(a.raw, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))};
}

COTERIE_INLINE float reduce_add(Vf a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.raw), _mm256_extractf128_ps(a.raw, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
COTERIE_INLINE float reduce_max(Vf a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.raw), _mm256_extractf128_ps(a.raw, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

COTERIE_INLINE Vd set_double(double value) { return {_mm256_set1_pd(value)}; }
COTERIE_INLINE Vd load_wide(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
COTERIE_INLINE void store_narrow(float* p, Vd v) { _mm_storeu_ps(p, _mm256_cvtpd_ps(v.raw)); }
COTERIE_INLINE void store(double* p, Vd v) { _mm256_storeu_pd(p, v.raw); }
COTERIE_INLINE Vd add(Vd a, Vd b) { return {_mm256_add_pd(a.raw, b.raw)}; }
COTERIE_INLINE Vd sub(Vd a, Vd b) { return {_mm256_sub_pd(a.raw, b.raw)}; }
COTERIE_INLINE Vd mul(Vd a, Vd b) { return {_mm256_mul_pd(a.raw, b.raw)}; }
COTERIE_INLINE Vd fma(Vd a, Vd b, Vd c) { return {_mm256_fmadd_pd(a.raw, b.raw, c.raw)}; }
COTERIE_INLINE Vd round(Vd a) { return {_mm256_round_pd(a.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
COTERIE_INLINE Vd select_nonzero(Vd test, Vd yes, Vd no) {
  return {_mm256_blendv_pd(no.raw, yes.raw, _mm256_cmp_pd(test.raw, _mm256_setzero_pd(), _CMP_NEQ_UQ))};
}

}  // namespace coterie::kernels::avx2
COTERIE_END
