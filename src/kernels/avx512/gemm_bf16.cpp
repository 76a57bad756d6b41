#include <immintrin.h>

#include "kernels/isa.h"
#include "kernels/simd/avx512.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

// Products whose operands are rounded to bf16 where they are packed, two values of the depth in 32 bits, as vdpbf16ps
// wants them: sum = fma(a0, b0, fma(a1, b1, sum)), without subnormals. An output is the sum, in order, of the sums of
// kGemmDepth products, whichever way its operands lie: forward and backward, any tile and any cut give the same bits.
COTERIE_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")

namespace coterie::kernels::avx512 {

namespace {

#include "kernels/avx512/pairs.inl.h"

constexpr int64_t kTileRows = 12;

/// Rows [row, end) of an a that lies by depth, as tiles of [pair][kTileRows]; a tile has room for a vector past its
/// end, which the next pair overwrites.
COTERIE_INLINE void pack_tiles(const PairTask& task, int64_t depth, int64_t count, int64_t row, int64_t end,
                               uint32_t* packed) {
  for (int64_t k = 0; k < count; k += 2) {
    const float* const first = task.a_row(depth + k);
    const float* const second = k + 1 < count ? task.a_row(depth + k + 1) : nullptr;
    uint32_t* to = packed + k / 2 * kTileRows;
    for (int64_t r = row; r < end; r += kTileRows, to += kTileRows * kRowPairs)
      _mm512_storeu_si512(to, pair(first + r, second ? second + r : nullptr, first_lanes(end - r)));
  }
}

/// Rows of words times a panel. Packed: row t's word of pair k at a[0][k * kTileRows + t], else at a[t][k].
template <bool kPacked>
COTERIE_INLINE void run_tile(const uint32_t* const* a, const uint32_t* panel, int64_t pairs, float* c, int64_t c_stride,
                             int64_t rows, int64_t cols, bool add_to) {
  __m512 left[kTileRows], right[kTileRows];
  const uint32_t* x[kPacked ? 1 : kTileRows];
  if constexpr (kPacked) {
    x[0] = a[0];
  } else {
    COTERIE_UNROLL
    for (int t = 0; t < kTileRows; ++t) x[t] = a[t];
  }
  COTERIE_UNROLL
  for (int t = 0; t < kTileRows; ++t) left[t] = right[t] = _mm512_setzero_ps();
  for (int64_t t = 0; t < rows; ++t) {
    __builtin_prefetch(c + t * c_stride, 1);
    __builtin_prefetch(c + t * c_stride + kWidth, 1);
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < pairs; ++k) {
    __m512bh first, second;
    __builtin_memcpy(&first, panel + k * kPanel, sizeof first);
    __builtin_memcpy(&second, panel + k * kPanel + kWidth, sizeof second);
    COTERIE_UNROLL
    for (int t = 0; t < kTileRows; ++t) {
      const uint32_t word = kPacked ? x[0][k * kTileRows + t] : x[kPacked ? 0 : t][k];
      const __m512i wide = _mm512_set1_epi32(static_cast<int>(word));
      __m512bh value;
      __builtin_memcpy(&value, &wide, sizeof value);
      left[t] = _mm512_dpbf16_ps(left[t], first, value);
      right[t] = _mm512_dpbf16_ps(right[t], second, value);
    }
  }
  const __mmask16 left_mask = first_lanes(cols), right_mask = first_lanes(cols - kWidth);
  COTERIE_UNROLL
  for (int t = 0; t < kTileRows; ++t) {
    if (t >= rows) break;
    float* const out = c + t * c_stride;
    if (add_to) {
      left[t] = _mm512_add_ps(_mm512_maskz_loadu_ps(left_mask, out), left[t]);
      right[t] = _mm512_add_ps(_mm512_maskz_loadu_ps(right_mask, out + kWidth), right[t]);
    }
    _mm512_mask_storeu_ps(out, left_mask, left[t]);
    _mm512_mask_storeu_ps(out + kWidth, right_mask, right[t]);
  }
}

struct Bf16Product {
  static constexpr int64_t kPackedCols = 192, kPackedRows = 120, kRows = kTileRows;

  static COTERIE_INLINE void pack_by_depth(const PairTask& task, int64_t depth, int64_t count, int64_t row, int64_t end,
                                           uint32_t* packed, uint32_t*) {
    pack_tiles(task, depth, count, row, end, packed);
  }
  static COTERIE_INLINE void run(const uint32_t* packed, bool by_depth, const uint32_t* panel, int64_t pairs, float* c,
                                 int64_t c_stride, int64_t rows, int64_t cols, bool add_to) {
    const uint32_t* a[kTileRows];
    for (int64_t t = 0; t < kTileRows; ++t) a[t] = packed + least(t, rows - 1) * kRowPairs;
    if (by_depth)
      run_tile<true>(a, panel, pairs, c, c_stride, rows, cols, add_to);
    else
      run_tile<false>(a, panel, pairs, c, c_stride, rows, cols, add_to);
  }
};
constexpr int64_t kScratch = kPairScratch<Bf16Product>;

void run_task(const PairTask& task) { run_pairs<Bf16Product>(task); }

void run_gemm_bf16(const GemmTask& given) noexcept { run_task(pair_task(given)); }
void run_matmul_bf16(const MatmulTask& given) noexcept { run_task(pair_task(given)); }

int64_t matmul_scratch(tensor::DType, int64_t) noexcept { return kScratch * static_cast<int64_t>(sizeof(uint32_t)); }

int64_t peak_bf16(int64_t rounds, float* sink) noexcept {
  constexpr int kChains = 12;
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
  return 2 * kChains * kWidth;
}

}  // namespace

}  // namespace coterie::kernels::avx512

COTERIE_END

namespace coterie::kernels::avx512 {

constinit const GemmKernels gemm_kernels_bf16 = {kTileRows, kPanel, kScratch, run_gemm_bf16};

void add_matmul_bf16(MatmulKernels& kernels) {
  kernels.bf16 = {run_matmul_bf16, matmul_scratch, ActivationForm::floats};
  kernels.peak_bf16 = peak_bf16;
}

}  // namespace coterie::kernels::avx512
