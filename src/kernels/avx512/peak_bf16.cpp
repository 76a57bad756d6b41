#include "kernels/peak_bf16.h"

#include <immintrin.h>

#include "kernels/simd/target.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

COTERIE_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")

namespace coterie::kernels::avx512 {

int64_t peak_bf16(int64_t rounds, float* sink) noexcept {
  constexpr int kChains = 12, kLanes = 16;
  __m512 sums[kChains];
  __m512 a = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f003f00));  // 0.5, 0.5
  __m512 b = _mm512_castsi512_ps(_mm512_set1_epi32(0x3e803e80));  // 0.25, 0.25
  COTERIE_UNROLL
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+v"(a), "+v"(b));
    __m512bh first, second;
    __builtin_memcpy(&first, &a, sizeof first);
    __builtin_memcpy(&second, &b, sizeof second);
    COTERIE_UNROLL
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], first, second);
  }
  COTERIE_UNROLL
  for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  *sink = _mm512_cvtss_f32(sums[0]);
  return int64_t{2} * kChains * kLanes;
}

}  // namespace coterie::kernels::avx512

COTERIE_END
