// Operands of a product rounded to bf16 and packed two values of the depth to a word of 32 bits, for vdpbf16ps and for
// the tiles of AMX. Needs <immintrin.h>, kernels/gemm.h, kernels/matmul.h and a target with avx512bf16.
#pragma once

inline constexpr int64_t kLanes = 16, kPanel = 2 * kLanes;
inline constexpr int64_t kPairs = kGemmDepth / 2;
inline constexpr int64_t kRowPairs = kPairs + kLanes;  // of a packed row; not a power of two

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

/// b[k, j] with rows by k: panels [pair][kPanel]; zeros up to a multiple of 16 pairs.
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
  for (int64_t k = (count + 1) / 2; k % kLanes != 0; ++k)
    for (int64_t j = 0; j < cols; j += kPanel)
      for (int64_t i = 0; i < kPanel; i += kLanes)
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
  for (int64_t j = 0; j < cols; j += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i)
      pack_row(task.b_row(col + least(j + i, cols - 1)) + depth, count, lines + i * kPairs);
    uint32_t* const to = panels + j / kPanel * kPanel * kPairs + j % kPanel;
    for (int64_t k = 0; k < pairs; k += kLanes) transpose(lines + k, kPairs, to + k * kPanel, kPanel);
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
