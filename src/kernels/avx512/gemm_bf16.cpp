#include <immintrin.h>

#include "kernels/isa.h"
#include "kernels/simd/target.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

// Products whose operands are rounded to bf16 where they are packed, two values of the depth in 32 bits, as vdpbf16ps
// wants them: sum = fma(a0, b0, fma(a1, b1, sum)), without subnormals. An output is the sum, in order, of the sums of
// kGemmDepth products, whichever way its operands lie: forward and backward, any tile and any cut give the same bits.
COTERIE_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")

namespace coterie::kernels::avx512 {

namespace {

constexpr int64_t kLanes = 16, kPanel = 2 * kLanes, kTileRows = 12;
constexpr int64_t kPairs = kGemmDepth / 2;
constexpr int64_t kPackedCols = 192, kPackedRows = 120;
constexpr int64_t kRowPairs = kPairs + kLanes;  // of a packed row; not a power of two
constexpr int64_t kScratch = kPackedCols * kPairs + kPackedRows * kRowPairs + kLanes * kPairs + 2 * kLanes;

COTERIE_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// What both kinds of task are here: c[i, j] (+)= Σ_k a(i, k) b(k, j).
struct PairTask {
  int64_t rows, cols, depth;
  // Rows of a by i, found by one of the two, or by k.
  const float* const* a_rows = nullptr;
  const float* a = nullptr;
  int64_t a_stride = 0;
  const int32_t* a_index = nullptr;
  bool a_by_depth = false;
  // Rows of b by k, or by j.
  const float* b = nullptr;
  int64_t b_stride = 0;
  const int32_t* b_index = nullptr;
  bool b_by_column = false;
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = true;
  uint32_t* scratch = nullptr;

  COTERIE_INLINE const float* a_row(int64_t i) const {
    return a_rows ? a_rows[i] : a + (a_index ? a_index[i] : i) * a_stride;
  }
  COTERIE_INLINE const float* b_row(int64_t k) const { return b + (b_index ? b_index[k] : k) * b_stride; }
};

COTERIE_INLINE __mmask16 first_lanes(int64_t n) {
  return n >= kLanes ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
}
COTERIE_INLINE __m512i bits_of(__m512bh v) {
  __m512i bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}

/// `count` values of a row, two to a word, the last alone with a zero; whole vectors are written.
COTERIE_INLINE void pack_row(const float* from, int64_t count, uint32_t* to) {
  for (int64_t k = 0; k < count; k += 2 * kLanes) {
    const __m512 low = _mm512_maskz_loadu_ps(first_lanes(count - k), from + k);
    const __m512 high = _mm512_maskz_loadu_ps(first_lanes(count - k - kLanes), from + k + kLanes);
    _mm512_storeu_si512(to + k / 2, bits_of(_mm512_cvtne2ps_pbh(high, low)));
  }
}

/// Values of two rows side by side: lane i has (first[i], second[i]).
COTERIE_INLINE __m512i pair(const float* first, const float* second, __mmask16 mask) {
  const __m512 zero = _mm512_setzero_ps();
  const __m512 a = _mm512_maskz_loadu_ps(mask, first), b = second ? _mm512_maskz_loadu_ps(mask, second) : zero;
  // Low half a, high half b; then their 16-bit words alternate.
  const __m512i words = bits_of(_mm512_cvtne2ps_pbh(b, a));
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(words));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(words, 1));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/// b[k, j] with rows by k: panels [pair][kPanel].
COTERIE_INLINE void pack_panels(const PairTask& task, int64_t depth, int64_t count, int64_t col, int64_t cols,
                                uint32_t* panels) {
  for (int64_t k = 0; k < count; k += 2) {
    const float* const first = task.b_row(depth + k) + col;
    const float* const second = k + 1 < count ? task.b_row(depth + k + 1) + col : nullptr;
    uint32_t* to = panels + k / 2 * kPanel;
    for (int64_t j = 0; j < cols; j += kPanel, to += kPanel * kPairs)
      for (int64_t i = 0; i < kPanel; i += kLanes)
        _mm512_storeu_si512(to + i, pair(first + j + i, second ? second + j + i : nullptr, first_lanes(cols - j - i)));
  }
}

/// 16 rows of 16 words, `stride` apart, transposed: column k of them goes to to[k * kPanel].
COTERIE_INLINE void transpose(const uint32_t* from, int64_t stride, uint32_t* to) {
  __m512i r[16], t[16];
  COTERIE_UNROLL
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(from + i * stride);
  COTERIE_UNROLL
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) {
    COTERIE_UNROLL
    for (int h = 0; h < 2; ++h) {
      r[4 * i + 2 * h] = _mm512_unpacklo_epi64(t[4 * i + h], t[4 * i + h + 2]);
      r[4 * i + 2 * h + 1] = _mm512_unpackhi_epi64(t[4 * i + h], t[4 * i + h + 2]);
    }
  }
  // r[4i + c]: columns c, c + 4, c + 8, c + 12 of rows 4i … 4i + 3.
  COTERIE_UNROLL
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), high = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
    const __m512i low2 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    const __m512i high2 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    _mm512_storeu_si512(to + c * kPanel, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_storeu_si512(to + (c + 4) * kPanel, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_storeu_si512(to + (c + 8) * kPanel, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_storeu_si512(to + (c + 12) * kPanel, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}

/// b[k, j] with rows by j, as weights lie.
COTERIE_INLINE void pack_columns(const PairTask& task, int64_t depth, int64_t count, int64_t col, int64_t cols,
                                 uint32_t* panels, uint32_t* lines) {
  const int64_t pairs = (count + 1) / 2;
  for (int64_t j = 0; j < cols; j += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i)
      pack_row(task.b_row(col + least(j + i, cols - 1)) + depth, count, lines + i * kPairs);
    uint32_t* const to = panels + j / kPanel * kPanel * kPairs + j % kPanel;
    for (int64_t k = 0; k < pairs; k += kLanes) transpose(lines + k, kPairs, to + k * kPanel);
  }
}

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
    __builtin_prefetch(c + t * c_stride + kLanes, 1);
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < pairs; ++k) {
    __m512bh first, second;
    __builtin_memcpy(&first, panel + k * kPanel, sizeof first);
    __builtin_memcpy(&second, panel + k * kPanel + kLanes, sizeof second);
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
  const __mmask16 left_mask = first_lanes(cols), right_mask = first_lanes(cols - kLanes);
  COTERIE_UNROLL
  for (int t = 0; t < kTileRows; ++t) {
    if (t >= rows) break;
    float* const out = c + t * c_stride;
    if (add_to) {
      left[t] = _mm512_add_ps(_mm512_maskz_loadu_ps(left_mask, out), left[t]);
      right[t] = _mm512_add_ps(_mm512_maskz_loadu_ps(right_mask, out + kLanes), right[t]);
    }
    _mm512_mask_storeu_ps(out, left_mask, left[t]);
    _mm512_mask_storeu_ps(out + kLanes, right_mask, right[t]);
  }
}

COTERIE_INLINE void run_rows(const PairTask& task, int64_t depth, int64_t count, int64_t row, int64_t end, int64_t col,
                             int64_t cols, const uint32_t* panels, uint32_t* packed, bool add_to) {
  const int64_t pairs = (count + 1) / 2;
  if (task.a_by_depth)
    pack_tiles(task, depth, count, row, end, packed);
  else
    for (int64_t r = row; r < end; ++r) pack_row(task.a_row(r) + depth, count, packed + (r - row) * kRowPairs);
  for (int64_t j = 0; j < cols; j += kPanel) {
    const uint32_t* const panel = panels + j * kPairs;
    for (int64_t r = row; r < end; r += kTileRows) {
      const int64_t rows = least(kTileRows, end - r);
      float* const c = task.c + r * task.c_stride + col + j;
      const uint32_t* a[kTileRows];
      for (int64_t t = 0; t < kTileRows; ++t) a[t] = packed + (r - row + least(t, rows - 1)) * kRowPairs;
      if (task.a_by_depth)
        run_tile<true>(a, panel, pairs, c, task.c_stride, rows, least(kPanel, cols - j), add_to);
      else
        run_tile<false>(a, panel, pairs, c, task.c_stride, rows, least(kPanel, cols - j), add_to);
    }
  }
}

void run_pairs(const PairTask& task) {
  if (task.depth == 0 && !task.accumulate) {
    for (int64_t i = 0; i < task.rows; ++i)
      for (int64_t j = 0; j < task.cols; ++j) task.c[i * task.c_stride + j] = 0.0f;
  }
  uint32_t* const panels = task.scratch;
  uint32_t* const packed = panels + kPackedCols * kPairs;
  uint32_t* const lines = packed + kPackedRows * kRowPairs + kLanes;
  for (int64_t col = 0; col < task.cols; col += kPackedCols) {
    const int64_t cols = least(kPackedCols, task.cols - col);
    for (int64_t depth = 0; depth < task.depth; depth += kGemmDepth) {
      const int64_t count = least(kGemmDepth, task.depth - depth);
      if (task.b_by_column)
        pack_columns(task, depth, count, col, cols, panels, lines);
      else
        pack_panels(task, depth, count, col, cols, panels);
      for (int64_t row = 0; row < task.rows; row += kPackedRows)
        run_rows(task, depth, count, row, least(row + kPackedRows, task.rows), col, cols, panels, packed,
                 task.accumulate || depth > 0);
    }
  }
}

void run_gemm_bf16(const GemmTask& given) noexcept {
  PairTask task{given.rows, given.cols, given.depth};
  task.a = given.a, task.a_stride = given.a_stride, task.a_index = given.a_index, task.a_by_depth = given.a_by_depth;
  task.b = given.b, task.b_stride = given.b_stride, task.b_index = given.b_index;
  task.c = given.c, task.c_stride = given.c_stride, task.accumulate = given.accumulate;
  task.scratch = reinterpret_cast<uint32_t*>(given.scratch);
  run_pairs(task);
}

void run_matmul_bf16(const MatmulTask& given) noexcept {
  PairTask task{given.tokens, given.rows, given.cols};
  task.a_rows = reinterpret_cast<const float* const*>(given.x);
  task.b = reinterpret_cast<const float*>(given.weights), task.b_by_column = true;
  task.b_stride = given.row_stride / static_cast<int64_t>(sizeof(float));
  task.c = given.y, task.c_stride = given.y_stride, task.accumulate = false;
  task.scratch = reinterpret_cast<uint32_t*>(given.scratch);
  run_pairs(task);
}

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
  return 2 * kChains * kLanes;
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
