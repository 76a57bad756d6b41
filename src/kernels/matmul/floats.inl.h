// Matmul in f32: weights that are floats, in both precisions, and decoded blocks in `exact`. Weights become panels
// [k][kWidth] of f32, one row a lane; an output is the sum, in order, of the sums of kChunk products each.
#pragma once
#include "kernels/matmul/panels.inl.h"
#include "kernels/matmul/repacked.inl.h"
#include "kernels/matmul/tile.inl.h"

inline constexpr int64_t kChunk = 256;
// Packed together, a chunk at a time: as many rows as a piece of many tokens has (rows_of_floats in ops/), so that x is
// read once for each chunk. They are 256 kB. (512 tokens by 2048 x 2048, Emerald Rapids, which has 2 MB of second
// cache, November 2026: 1.00 to 1.07 times as fast as 64 rows; smaller second caches were not measured.)
inline constexpr int64_t kFloatPanels = 256 / kWidth;

inline constexpr int64_t kFloatCopyBytes = kWidth * kChunk * 4;  // a chunk of kWidth rows

/// A format's values of a column of four bytes, to sink(i, lanes) with i counted in values. Repacked rows: blocks of 16
/// bytes, of which value() is one of each lane.
struct ReadF32 {
  static constexpr int kBytes = 4;  // of a value
  static constexpr RepackedRun kRepacked[] = {{0, 16}};
  template <typename Sink>
  static COTERIE_INLINE void column(int c, Vi bytes, const Sink& sink) {
    sink(c, as_float(bytes));
  }
  static COTERIE_INLINE Vf value(Repacked block, int i) { return as_float(load_word(block, 4 * i)); }
};

struct ReadBF16 {
  static constexpr int kBytes = 2;
  static constexpr RepackedRun kRepacked[] = {{0, 16}};
  template <typename Sink>
  static COTERIE_INLINE void column(int c, Vi bytes, const Sink& sink) {
    sink(2 * c, as_float(shift<16>(bytes)));
    sink(2 * c + 1, as_float(bits_and(bytes, set_int(0xffff0000))));
  }
  static COTERIE_INLINE Vf value(Repacked block, int i) {
    const Vi two = load_word(block, 4 * (i / 2));
    return as_float(i % 2 == 0 ? shift<16>(two) : bits_and(two, set_int(0xffff0000)));
  }
};

struct ReadF16 {
  static constexpr int kBytes = 2;
  // One value after another: what makes floats of halves wants those of one column side by side.
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {2, 2}, {4, 2}, {6, 2}, {8, 2}, {10, 2}, {12, 2}, {14, 2}};
  template <typename Sink>
  static COTERIE_INLINE void column(int c, Vi bytes, const Sink& sink) {
    sink(2 * c, half_to_float(bytes));
    sink(2 * c + 1, half_to_float(shift<-16>(bytes)));
  }
  static COTERIE_INLINE Vf value(Repacked block, int i) { return load_halves(block, 2 * i); }
};

/// What 64, or 16, bytes of each row hold.
template <class Read, typename Sink>
COTERIE_INLINE void read_wide(Rows rows, int64_t offset, const Sink& sink) {
  Vi c[16];
  load_wide_columns(rows, offset, c);
  COTERIE_UNROLL
  for (int i = 0; i < 16; ++i) Read::column(i, c[i], sink);
}
template <class Read, typename Sink>
COTERIE_INLINE void read_narrow(Rows rows, int64_t offset, const Sink& sink) {
  Vi c[4];
  load_columns(rows, offset, c);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) Read::column(i, c[i], sink);
}

/// Fuses what is read with x: acc[p][t] = fma(w, x[t][i], acc[p][t]).
template <int T>
struct FuseColumns {
  const float* const* x;  // at the first of the columns
  Vf (&acc)[T];
  COTERIE_INLINE void operator()(int i, Vf w) const {
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) acc[t] = fma(w, set(x[t][i]), acc[t]);
  }
};
struct StoreColumns {
  float* panel;
  COTERIE_INLINE void operator()(int i, Vf w) const { store(panel + i * kWidth, w); }
};

/// The last columns of kWidth rows, fewer than 16 bytes hold: padded with zeros into `copy` [kWidth][16].
COTERIE_INLINE Rows padded_tail(Rows rows, int64_t offset, int64_t bytes, std::byte* copy) {
  for (int64_t r = 0; r < kWidth; ++r) {
    __builtin_memset(copy + 16 * r, 0, 16);
    __builtin_memcpy(copy + 16 * r, rows.data + r * rows.stride + offset, static_cast<size_t>(bytes));
  }
  return {copy, 16};
}

/// Values [begin, begin + count) of kWidth rows as [count][kWidth]; up to 7 more lines of the panel are overwritten.
template <class Read>
void unpack_floats(Rows rows, int64_t begin, int64_t count, float* panel) {
  constexpr int kWide = 64 / Read::kBytes, kNarrow = 16 / Read::kBytes;
  int64_t k = 0;
  for (; k + kWide <= count; k += kWide)
    read_wide<Read>(rows, (begin + k) * Read::kBytes, StoreColumns{panel + k * kWidth});
  for (; k + kNarrow <= count; k += kNarrow)
    read_narrow<Read>(rows, (begin + k) * Read::kBytes, StoreColumns{panel + k * kWidth});
  if (k < count) {
    std::byte copy[16 * kWidth];
    const Rows tail = padded_tail(rows, (begin + k) * Read::kBytes, (count - k) * Read::kBytes, copy);
    read_narrow<Read>(tail, 0, StoreColumns{panel + k * kWidth});
  }
}

/// P panels [count][kWidth], kChunk * kWidth floats apart, times T tokens. x [T] points to the first of the values.
template <int P, int T>
COTERIE_INLINE void multiply_chunk(const float* panels, int64_t count, const float* const* rows_x, Vf (&acc)[P][T]) {
  const float* x[T];
  COTERIE_UNROLL
  for (int t = 0; t < T; ++t) x[t] = rows_x[t];
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; ++k) {
    Vf w[P];
    COTERIE_UNROLL
    for (int p = 0; p < P; ++p) w[p] = load(panels + p * kChunk * kWidth + k * kWidth);
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      const Vf value = set(x[t][k]);
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) acc[p][t] = fma(w[p], value, acc[p][t]);
    }
  }
}

/// Rows [first, first + kWidth) of a task, padded with zero rows in `copy` where it ends before: `bytes` at `offset` of
/// each, which then start at 0.
COTERIE_INLINE Rows chunk_rows(const MatmulTask& task, int64_t first, int64_t offset, int64_t bytes, std::byte* copy) {
  const std::byte* data = task.weights + first * task.row_stride + offset;
  if (first + kWidth <= task.rows) return {data, task.row_stride};
  const int64_t rows = task.rows - first;
  for (int64_t r = 0; r < rows; ++r)
    __builtin_memcpy(copy + r * bytes, data + r * task.row_stride, static_cast<size_t>(bytes));
  __builtin_memset(copy + rows * bytes, 0, static_cast<size_t>((kWidth - rows) * bytes));
  return {copy, bytes};
}

COTERIE_INLINE void add_rows(const MatmulTask& task, int64_t token, int64_t first, bool begins, Vf sum) {
  float* y = task.y + token * task.y_stride + first;
  const int64_t rows = smaller(task.rows - first, kWidth);
  if (rows == kWidth) {
    store(y, add(begins ? zero() : load(y), sum));
  } else {
    store_first(y, add(begins ? zero() : load_first(y, rows), sum), rows);
  }
}

/// P panels from row `first` on, T tokens, one chunk.
template <int P, int T>
void run_float_tile(const MatmulTask& task, const float* panels, int64_t begin, int64_t count, int64_t token,
                    int64_t first) {
  const float* x[T];
  Vf acc[P][T];
  COTERIE_UNROLL
  for (int t = 0; t < T; ++t) {
    x[t] = reinterpret_cast<const float*>(task.x[token + t]) + begin;
    COTERIE_UNROLL
    for (int p = 0; p < P; ++p) acc[p][t] = zero();
  }
  multiply_chunk<P, T>(panels, count, x, acc);
  COTERIE_UNROLL
  for (int t = 0; t < T; ++t) {
    COTERIE_UNROLL
    for (int p = 0; p < P; ++p) add_rows(task, token + t, first + p * kWidth, begin == 0, acc[p][t]);
  }
}

template <int P, int T = kFloatTileTokens>
COTERIE_INLINE void run_float_tile_of(int64_t tokens, const MatmulTask& task, const float* panels, int64_t begin,
                                      int64_t count, int64_t token, int64_t first) {
  if constexpr (T > 1) {
    if (tokens < T) return run_float_tile_of<P, T - 1>(tokens, task, panels, begin, count, token, first);
  }
  run_float_tile<P, T>(task, panels, begin, count, token, first);
}

/// The packed way: a chunk of up to kFloatPanels panels is laid out by `unpack`(first row, begin, count, panel), then
/// multiplied by all tokens.
template <class Unpack>
COTERIE_INLINE void run_packed_floats(const MatmulTask& task, float* panels, Unpack&& unpack) {
  const int64_t tiles = (task.tokens + kFloatTileTokens - 1) / kFloatTileTokens;
  for (int64_t first = 0; first < task.rows; first += kFloatPanels * kWidth) {
    const int64_t count = smaller(kFloatPanels, (task.rows - first + kWidth - 1) / kWidth);
    for (int64_t begin = 0; begin < task.cols; begin += kChunk) {
      const int64_t values = smaller(kChunk, task.cols - begin);
      for (int64_t p = 0; p < count; ++p) unpack(first + p * kWidth, begin, values, panels + p * kChunk * kWidth);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t token = task.tokens * tile / tiles, tokens = task.tokens * (tile + 1) / tiles - token;
        int64_t p = 0;
        for (; p + 2 <= count; p += 2)
          run_float_tile_of<2>(tokens, task, panels + p * kChunk * kWidth, begin, values, token, first + p * kWidth);
        if (p < count)
          run_float_tile_of<1>(tokens, task, panels + p * kChunk * kWidth, begin, values, token, first + p * kWidth);
      }
    }
  }
}

/// Few tokens: straight from the file's bytes, P panels side by side so that their sums do not wait for each other.
template <class Read, int P, int T>
void run_fused_floats(const MatmulTask& task, int64_t first) {
  constexpr int kWide = 64 / Read::kBytes;
  std::byte* copy = task.scratch;
  for (int64_t begin = 0; begin < task.cols; begin += kChunk) {
    const int64_t count = smaller(kChunk, task.cols - begin);
    const float* x[T];
    Vf acc[P][T];
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      x[t] = reinterpret_cast<const float*>(task.x[t]) + begin;
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) acc[p][t] = zero();
    }
    Rows rows[P];
    COTERIE_UNROLL
    for (int p = 0; p < P; ++p)
      rows[p] = chunk_rows(task, first + p * kWidth, begin * Read::kBytes, count * Read::kBytes, copy);
    int64_t k = 0;
    for (; k + kWide <= count; k += kWide) {
      // Through the first cache, so that the panels' multiply-adds stand side by side in the instruction stream: a
      // panel's own wait for each other, and would fill the scheduler (bf16 N=1, Zen 4: 5.6 bytes a cycle without).
      alignas(64) uint8_t columns[P][16][4 * kWidth];
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        Vi c[16];
        load_wide_columns(rows[p], k * Read::kBytes, c);
        COTERIE_UNROLL
        for (int i = 0; i < 16; ++i) store_int(columns[p][i], c[i]);
      }
      COTERIE_UNROLL
      for (int i = 0; i < 16; ++i) {
        COTERIE_UNROLL
        for (int p = 0; p < P; ++p) Read::column(i, load_int(columns[p][i]), FuseColumns<T>{x, acc[p]});
      }
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) x[t] += kWide;
    }
    if (k < count) {  // laid out first: few values, or rows that end within a line
      float* panel = reinterpret_cast<float*>(task.scratch + 2 * kFloatCopyBytes);
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        unpack_floats<Read>(rows[p], k, count - k, panel);
        for (int64_t i = 0; i < count - k; ++i)
          FuseColumns<T>{x, acc[p]}(static_cast<int>(i), load(panel + i * kWidth));
      }
    }
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) add_rows(task, t, first + p * kWidth, begin == 0, acc[p][t]);
    }
  }
}

int64_t floats_scratch(tensor::DType, int64_t) noexcept {
  return 2 * kFloatCopyBytes + (kFloatPanels * kChunk + 8) * kWidth * 4;
}

template <class Read, int T>
void run_few_floats(const MatmulTask& task) {
  int64_t first = 0;
  for (; first + 2 * kWidth <= task.rows; first += 2 * kWidth) run_fused_floats<Read, 2, T>(task, first);
  for (; first < task.rows; first += kWidth) run_fused_floats<Read, 1, T>(task, first);
}

template <class Read>
struct UnpackPlain {
  const MatmulTask& task;
  COTERIE_INLINE void operator()(int64_t first, int64_t begin, int64_t count, float* panel) const {
    const Rows rows = chunk_rows(task, first, begin * Read::kBytes, count * Read::kBytes, task.scratch);
    unpack_floats<Read>(rows, 0, count, panel);
  }
};

/// Blocks, decoded: what `exact` does with them. It is for comparing with references, not for speed.
struct UnpackDecoded {
  const MatmulTask& task;
  COTERIE_INLINE void operator()(int64_t first, int64_t begin, int64_t count, float* panel) const {
    const tensor::DTypeInfo& info = tensor::info(task.dtype);
    const int64_t offset = begin / info.block_values * info.block_bytes;
    float* decoded = reinterpret_cast<float*>(task.scratch);
    for (int64_t r = 0; r < kWidth; ++r) {
      const int64_t row = smaller(first + r, task.rows - 1);
      quant::decode(task.dtype, task.weights + row * task.row_stride + offset, decoded + r * kChunk, count);
    }
    unpack_floats<ReadF32>({task.scratch, kChunk * 4}, 0, count, panel);
  }
};

[[maybe_unused]] void run_decoded(const MatmulTask& task) noexcept {  // where blocks with scales are, it is not
  run_packed_floats(task, reinterpret_cast<float*>(task.scratch + 2 * kFloatCopyBytes), UnpackDecoded{task});
}
