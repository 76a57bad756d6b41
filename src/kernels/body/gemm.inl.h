// f32 products for gradients. Included inside namespace coterie::kernels::<isa>.
//
// b is packed in panels [k][kPanel] of two vectors, kGemmDepth deep and kPackedCols wide, which stay in the second
// cache; a panel's 16 or 32 kB stay in the first while all rows of a pass over it. Rows of a are read where they lie;
// where a lies by depth, a tile's rows are packed side by side first.

inline constexpr int64_t kPanel = 2 * kWidth;
inline constexpr int64_t kTileRows = kWidth == 16 ? 12 : kWidth == 8 ? 6 : 4;  // as many sums as registers hold
inline constexpr int64_t kPackedCols = kPanel * ((192 + kPanel - 1) / kPanel);
inline constexpr int64_t kPackedRows = 120;
inline constexpr int64_t kTileFloats = kTileRows * kGemmDepth + kWidth;  // and not a power of two

COTERIE_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The operands of gradients are rarely in cache, and short rows far apart are not a stream that the hardware prefetcher
// follows.
inline constexpr int64_t kAhead = 8;  // rows
COTERIE_INLINE void prefetch(const float* row, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(row + i);
}

// Row by row of what lies in memory: rows a power of two apart share one set of the first cache, so that a line would
// be gone before the next panel or tile reads its neighbour.
COTERIE_INLINE void pack_panels(const GemmTask& task, int64_t depth, int64_t count, int64_t col, int64_t cols,
                                float* panels) {
  for (int64_t k = 0; k < count; ++k) {
    const auto row = [&](int64_t r) { return task.b + (task.b_index ? task.b_index[r] : r) * task.b_stride + col; };
    const float* from = row(depth + k);
    prefetch(row(depth + least(k + kAhead, count - 1)), cols);
    float* to = panels + k * kPanel;
    int64_t j = 0;
    for (; j + kPanel <= cols; j += kPanel, to += kPanel * kGemmDepth) {
      store(to, load(from + j));
      store(to + kWidth, load(from + j + kWidth));
    }
    if (j < cols) {
      for (int64_t i = 0; i < kPanel; ++i) to[i] = j + i < cols ? from[j + i] : 0.0f;
    }
  }
}

/// Rows [row, end) of an a that lies by depth as tiles of [k][kTileRows], zeros past the last. A tile has room for a
/// vector past its end.
COTERIE_INLINE void pack_rows(const GemmTask& task, int64_t depth, int64_t count, int64_t row, int64_t end,
                              float* packed) {
  for (int64_t k = 0; k < count; ++k) {
    const auto at = [&](int64_t r) { return task.a + (task.a_index ? task.a_index[r] : r) * task.a_stride; };
    const float* from = at(depth + k);
    prefetch(at(depth + least(k + kAhead, count - 1)) + row, end - row);
    float* to = packed + k * kTileRows;
    for (int64_t r = row; r < end; r += kTileRows, to += kTileFloats) {
      if (kTileRows <= kWidth && r + kWidth <= task.rows) {
        store(to, load(from + r));  // what is too much, the next k overwrites
      } else {
        for (int64_t i = 0; i < kTileRows; ++i) to[i] = r + i < end ? from[r + i] : 0.0f;
      }
    }
  }
}

/// kTileRows rows times a panel, `count` deep, into c (rows x cols of it).
template <bool kPacked>
COTERIE_INLINE void run_tile(const float* const* a, const float* panel, int64_t count, float* c, int64_t c_stride,
                             int64_t rows, int64_t cols, bool add_to) {
  Vf left[kTileRows], right[kTileRows];
  const float* x[kPacked ? 1 : kTileRows];
  if constexpr (kPacked) {
    x[0] = a[0];
  } else {
    COTERIE_UNROLL
    for (int t = 0; t < kTileRows; ++t) x[t] = a[t];
  }
  COTERIE_UNROLL
  for (int t = 0; t < kTileRows; ++t) left[t] = right[t] = zero();
  for (int64_t t = 0; t < rows; ++t) {
    __builtin_prefetch(c + t * c_stride, 1);
    __builtin_prefetch(c + t * c_stride + kPanel - 1, 1);
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; ++k) {
    const Vf first = load(panel + k * kPanel), second = load(panel + k * kPanel + kWidth);
    COTERIE_UNROLL
    for (int t = 0; t < kTileRows; ++t) {
      const Vf value = set(kPacked ? x[0][k * kTileRows + t] : x[kPacked ? 0 : t][k]);
      left[t] = fma(first, value, left[t]);
      right[t] = fma(second, value, right[t]);
    }
  }
  if (rows == kTileRows && cols == kPanel) {
    COTERIE_UNROLL
    for (int t = 0; t < kTileRows; ++t) {
      float* out = c + t * c_stride;
      store(out, add_to ? add(load(out), left[t]) : left[t]);
      store(out + kWidth, add_to ? add(load(out + kWidth), right[t]) : right[t]);
    }
    return;
  }
  alignas(64) float sums[kTileRows][kPanel];
  COTERIE_UNROLL
  for (int t = 0; t < kTileRows; ++t) store(sums[t], left[t]), store(sums[t] + kWidth, right[t]);
  for (int64_t t = 0; t < rows; ++t) {
    float* out = c + t * c_stride;
    for (int64_t j = 0; j < cols; ++j) out[j] = add_to ? out[j] + sums[t][j] : sums[t][j];
  }
}

/// Rows [row, end) against the packed panels of columns [col, col + cols).
COTERIE_INLINE void run_rows(const GemmTask& task, int64_t depth, int64_t count, int64_t row, int64_t end, int64_t col,
                             int64_t cols, const float* panels, float* packed, bool add_to) {
  if (task.a_by_depth) pack_rows(task, depth, count, row, end, packed);
  for (int64_t j = 0; j < cols; j += kPanel) {
    const float* panel = panels + j * kGemmDepth;
    const int64_t width = least(kPanel, cols - j);
    for (int64_t r = row; r < end; r += kTileRows) {
      const int64_t rows = least(kTileRows, end - r);
      float* c = task.c + r * task.c_stride + col + j;
      const float* a[kTileRows];
      if (task.a_by_depth) {
        a[0] = packed + (r - row) / kTileRows * kTileFloats;
        run_tile<true>(a, panel, count, c, task.c_stride, rows, width, add_to);
      } else {
        const auto row_of = [&](int64_t at) {
          return task.a + (task.a_index ? task.a_index[at] : at) * task.a_stride + depth;
        };
        for (int64_t t = 0; t < kTileRows; ++t)
          a[t] = row_of(r + least(t, rows - 1));  // past the end: the last row again, which is not stored
        if (j == 0)
          for (int64_t t = r + rows; t < least(r + rows + kTileRows, end); ++t) prefetch(row_of(t), count);
        run_tile<false>(a, panel, count, c, task.c_stride, rows, width, add_to);
      }
    }
  }
}

inline void run_gemm(const GemmTask& task) noexcept {
  if (task.depth == 0 && !task.accumulate) {
    for (int64_t i = 0; i < task.rows; ++i)
      for (int64_t j = 0; j < task.cols; ++j) task.c[i * task.c_stride + j] = 0.0f;
  }
  float* const panels = task.scratch;
  float* const packed = task.scratch + kPackedCols * kGemmDepth;
  for (int64_t col = 0; col < task.cols; col += kPackedCols) {
    const int64_t cols = least(kPackedCols, task.cols - col);
    for (int64_t depth = 0; depth < task.depth; depth += kGemmDepth) {
      const int64_t count = least(kGemmDepth, task.depth - depth);
      pack_panels(task, depth, count, col, cols, panels);
      for (int64_t row = 0; row < task.rows; row += kPackedRows)
        run_rows(task, depth, count, row, least(row + kPackedRows, task.rows), col, cols, panels, packed,
                 task.accumulate || depth > 0);
    }
  }
}

constinit const GemmKernels gemm_kernels = {kTileRows, kPanel,
                                            kPackedCols* kGemmDepth + kPackedRows / kTileRows* kTileFloats, run_gemm};
