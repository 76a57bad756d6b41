// Operands of a product rounded to bf16 and packed two values of the depth to a word of 32 bits, for vdpbf16ps and for
// the tiles of AMX, and the walk over them. Needs kernels/simd/avx512.h, kernels/isa.h and a target with avx512bf16.
#pragma once

inline constexpr int64_t kPanel = 2 * kWidth;
inline constexpr int64_t kPairs = kGemmDepth / 2;
inline constexpr int64_t kRowPairs = kPairs + kWidth;  // of a packed row; not a power of two

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
  return n >= kWidth ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
}
COTERIE_INLINE __m512i bits_of(__m512bh v) {
  __m512i bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}

/// `count` values of a row, two to a word, the last alone with a zero; whole vectors are written.
COTERIE_INLINE void pack_row(const float* from, int64_t count, uint32_t* to) {
  for (int64_t k = 0; k < count; k += 2 * kWidth) {
    const __m512 low = _mm512_maskz_loadu_ps(first_lanes(count - k), from + k);
    const __m512 high = _mm512_maskz_loadu_ps(first_lanes(count - k - kWidth), from + k + kWidth);
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

/// b[k, j] with rows by k: panels [pair][kPanel]; zeros up to a multiple of 16 pairs.
COTERIE_INLINE void pack_panels(const PairTask& task, int64_t depth, int64_t count, int64_t col, int64_t cols,
                                uint32_t* panels) {
  for (int64_t k = 0; k < count; k += 2) {
    const float* const first = task.b_row(depth + k) + col;
    const float* const second = k + 1 < count ? task.b_row(depth + k + 1) + col : nullptr;
    uint32_t* to = panels + k / 2 * kPanel;
    for (int64_t j = 0; j < cols; j += kPanel, to += kPanel * kPairs)
      for (int64_t i = 0; i < kPanel; i += kWidth)
        _mm512_storeu_si512(to + i, pair(first + j + i, second ? second + j + i : nullptr, first_lanes(cols - j - i)));
  }
  for (int64_t k = (count + 1) / 2; k % kWidth != 0; ++k)
    for (int64_t j = 0; j < cols; j += kPanel)
      for (int64_t i = 0; i < kPanel; i += kWidth)
        _mm512_storeu_si512(panels + k * kPanel + j * kPairs + i, _mm512_setzero_si512());
}

/// 16 rows of 16 words, `stride` apart, transposed: column k of them goes to to[k * to_stride].
COTERIE_INLINE void transpose(const uint32_t* from, int64_t stride, uint32_t* to, int64_t to_stride) {
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
    _mm512_storeu_si512(to + c * to_stride, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_storeu_si512(to + (c + 4) * to_stride, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_storeu_si512(to + (c + 8) * to_stride, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_storeu_si512(to + (c + 12) * to_stride, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}

/// b[k, j] with rows by j, as weights lie.
COTERIE_INLINE void pack_columns(const PairTask& task, int64_t depth, int64_t count, int64_t col, int64_t cols,
                                 uint32_t* panels, uint32_t* lines) {
  const int64_t pairs = (count + 1) / 2;
  for (int64_t j = 0; j < cols; j += kWidth) {
    for (int64_t i = 0; i < kWidth; ++i)
      pack_row(task.b_row(col + least(j + i, cols - 1)) + depth, count, lines + i * kPairs);
    uint32_t* const to = panels + j / kPanel * kPanel * kPairs + j % kPanel;
    for (int64_t k = 0; k < pairs; k += kWidth) transpose(lines + k, kPairs, to + k * kPanel, kPanel);
  }
}

/// What the two public tasks are here.
COTERIE_INLINE PairTask pair_task(const GemmTask& given) {
  PairTask task{given.rows, given.cols, given.depth};
  task.a = given.a, task.a_stride = given.a_stride, task.a_index = given.a_index, task.a_by_depth = given.a_by_depth;
  task.b = given.b, task.b_stride = given.b_stride, task.b_index = given.b_index;
  task.c = given.c, task.c_stride = given.c_stride, task.accumulate = given.accumulate;
  task.scratch = reinterpret_cast<uint32_t*>(given.scratch);
  return task;
}
COTERIE_INLINE PairTask pair_task(const MatmulTask& given) {
  PairTask task{given.tokens, given.rows, given.cols};
  task.a_rows = reinterpret_cast<const float* const*>(given.x);
  task.b = reinterpret_cast<const float*>(given.weights), task.b_by_column = true;
  task.b_stride = given.row_stride / static_cast<int64_t>(sizeof(float));
  task.c = given.y, task.c_stride = given.y_stride, task.accumulate = false;
  task.scratch = reinterpret_cast<uint32_t*>(given.scratch);
  return task;
}
COTERIE_INLINE void clear(const PairTask& task) {
  for (int64_t i = 0; i < task.rows; ++i)
    for (int64_t j = 0; j < task.cols; ++j) task.c[i * task.c_stride + j] = 0.0f;
}

/// Words of scratch that run_pairs() needs.
template <typename Product>
inline constexpr int64_t kPairScratch =
    Product::kPackedCols* kPairs + Product::kPackedRows* kRowPairs + kWidth* kPairs + 2 * kWidth;

/// A whole product, in pieces whose packed operands stay in the second cache. Product has
///   kPackedCols, kPackedRows  what is packed at a time: columns of b (a multiple of kPanel), rows of a
///   kRows                     rows of a tile
///   pack_by_depth(task, depth, count, row, end, packed, lines)  rows [row, end) of an a that lies by depth
///   run(packed, by_depth, panel, pairs, c, c_stride, rows, cols, add_to)  one tile: at most kRows x kPanel outputs
template <typename Product>
COTERIE_INLINE void run_pairs(const PairTask& task) {
  if (task.depth == 0 && !task.accumulate) clear(task);
  uint32_t* const panels = task.scratch;
  uint32_t* const packed = panels + Product::kPackedCols * kPairs;
  uint32_t* const lines = packed + Product::kPackedRows * kRowPairs + kWidth;
  for (int64_t col = 0; col < task.cols; col += Product::kPackedCols) {
    const int64_t cols = least(Product::kPackedCols, task.cols - col);
    for (int64_t depth = 0; depth < task.depth; depth += kGemmDepth) {
      const int64_t count = least(kGemmDepth, task.depth - depth), pairs = (count + 1) / 2;
      if (task.b_by_column)
        pack_columns(task, depth, count, col, cols, panels, lines);
      else
        pack_panels(task, depth, count, col, cols, panels);
      for (int64_t row = 0; row < task.rows; row += Product::kPackedRows) {
        const int64_t end = least(row + Product::kPackedRows, task.rows);
        if (task.a_by_depth)
          Product::pack_by_depth(task, depth, count, row, end, packed, lines);
        else
          for (int64_t r = row; r < end; ++r) pack_row(task.a_row(r) + depth, count, packed + (r - row) * kRowPairs);
        for (int64_t j = 0; j < cols; j += kPanel)
          for (int64_t r = row; r < end; r += Product::kRows)
            Product::run(packed + (r - row) * kRowPairs, task.a_by_depth, panels + j * kPairs, pairs,
                         task.c + r * task.c_stride + col + j, task.c_stride, least(Product::kRows, end - r),
                         least(kPanel, cols - j), task.accumulate || depth > 0);
      }
    }
  }
}
