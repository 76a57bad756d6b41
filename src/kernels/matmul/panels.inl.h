// The walk over a task's rows that all block formats share. `Blocks` says how a panel (kWidth rows) is read:
//   fused<T>   multiplies it by T tokens straight from the file's bytes: few tokens, memory is the limit
//   unpack     lays it out for the multiplier once;  tile<P, T> then multiplies P of them by T tokens: many tokens
// Both compute the same integers and then the same sequence of f32 steps.
#pragma once

inline constexpr int64_t kUnpackedBytes = 192 << 10;  // panels unpacked together: they stay in the second cache

COTERIE_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/// Panels to unpack together, for rows of so many blocks.
template <class Blocks>
int64_t panel_group(int64_t blocks) {
  const int64_t bytes = blocks * static_cast<int64_t>(sizeof(typename Blocks::Panel));
  return larger(smaller(kUnpackedBytes / larger(bytes, 1), 4), Blocks::kTilePanels);
}

template <class Blocks>
int64_t panel_scratch(tensor::DType, int64_t cols) noexcept {
  const int64_t blocks = cols / Blocks::kValues;
  const int64_t copied_rows = round_up(kWidth * blocks * Blocks::kBytes, 64);
  return copied_rows + panel_group<Blocks>(blocks) * blocks * static_cast<int64_t>(sizeof(typename Blocks::Panel));
}

/// Rows [first, first + kWidth) of the task; where it ends before, they are copied and filled up with zeros, so that
/// nothing after the last row is read.
COTERIE_INLINE Rows panel_rows(const MatmulTask& task, int64_t first, int64_t row_bytes) {
  const std::byte* data = task.weights + first * task.row_stride;
  if (first + kWidth <= task.rows) return {data, task.row_stride};
  std::byte* copy = task.scratch;
  const int64_t rows = task.rows - first;
  for (int64_t r = 0; r < rows; ++r)
    __builtin_memcpy(copy + r * row_bytes, data + r * task.row_stride, static_cast<size_t>(row_bytes));
  __builtin_memset(copy + rows * row_bytes, 0, static_cast<size_t>((kWidth - rows) * row_bytes));
  return {copy, row_bytes};
}

/// The same panel as the task's rows lie.
template <class Source>
COTERIE_INLINE Source panel_of(const MatmulTask& task, int64_t first, int64_t row_bytes) {
  if constexpr (__is_same(Source, Repacked)) {
    return {task.weights + first * row_bytes};
  } else {
    return panel_rows(task, first, row_bytes);
  }
}

COTERIE_INLINE void store_rows(const MatmulTask& task, int64_t token, int64_t first, Vf y) {
  float* target = task.y + token * task.y_stride + first;
  if (first + kWidth <= task.rows) {
    store(target, y);
  } else {
    store_first(target, y, task.rows - first);
  }
}

/// The rows from `first` on, or what the task says comes next, `steps` times a share of its lines.
COTERIE_INLINE Ahead ahead_of(const MatmulTask& task, int64_t first, int64_t rows, int64_t steps) {
  const bool inside = first < task.rows;
  const std::byte* at = inside ? task.weights + first * task.row_stride : task.next;
  const int64_t bytes = smaller(rows, inside ? task.rows - first : rows) * task.row_stride;
  return {at, at + (inside ? bytes : smaller(bytes, task.next_bytes)), (bytes / 64 + steps - 1) / steps};
}

/// Tokens as evenly as tiles allow: 9 are 5 and 4, not 8 and 1.
COTERIE_INLINE int64_t tile_begin(int64_t tile, int64_t tiles, int64_t tokens) { return tokens * tile / tiles; }

template <class Blocks, int T, class Source>
void run_fused_tile(const MatmulTask& task, Source rows, int64_t blocks, int64_t token, int64_t first, Ahead& ahead) {
  Vf y[T];
  Blocks::template fused<T>(rows, blocks, task.x + token, ahead, y);
  COTERIE_UNROLL
  for (int t = 0; t < T; ++t) store_rows(task, token + t, first, y[t]);
}

template <class Blocks, int T, class Source>
COTERIE_INLINE void run_fused_tile_of(int64_t tokens, const MatmulTask& task, Source rows, int64_t blocks,
                                      int64_t token, int64_t first, Ahead& ahead) {
  if constexpr (T > 1) {
    if (tokens < T) return run_fused_tile_of<Blocks, T - 1>(tokens, task, rows, blocks, token, first, ahead);
  }
  run_fused_tile<Blocks, T>(task, rows, blocks, token, first, ahead);
}

/// Up to kFewTokens: straight from the file's bytes. A second tile of tokens finds the panel in the first cache.
template <class Blocks>
void run_fused(const MatmulTask& task) {
  const int64_t blocks = task.cols / Blocks::kValues, row_bytes = blocks * Blocks::kBytes;
  const int64_t tiles = (task.tokens + Blocks::kFusedTokens - 1) / Blocks::kFusedTokens;
  for (int64_t first = 0; first < task.rows; first += kWidth) {
    const Rows rows = panel_rows(task, first, row_bytes);
    Ahead ahead = ahead_of(task, first + kWidth, kWidth, blocks * tiles);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t token = tile_begin(tile, tiles, task.tokens), end = tile_begin(tile + 1, tiles, task.tokens);
      run_fused_tile_of<Blocks, Blocks::kFusedTokens>(end - token, task, rows, blocks, token, first, ahead);
    }
  }
}

template <class Blocks, int P, int T>
void run_tile(const MatmulTask& task, const typename Blocks::Panel* panels, int64_t blocks, int64_t token,
              int64_t first, Ahead& ahead) {
  Vf y[P][T];
  Blocks::template tile<P, T>(panels, blocks, task.x + token, ahead, y);
  COTERIE_UNROLL
  for (int p = 0; p < P; ++p) {
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) store_rows(task, token + t, first + p * kWidth, y[p][t]);
  }
}

template <class Blocks, int P, int T = kTileTokens>
COTERIE_INLINE void run_tile_of(int64_t tokens, const MatmulTask& task, const typename Blocks::Panel* panels,
                                int64_t blocks, int64_t token, int64_t first, Ahead& ahead) {
  if constexpr (T > 1) {
    if (tokens < T) return run_tile_of<Blocks, P, T - 1>(tokens, task, panels, blocks, token, first, ahead);
  }
  run_tile<Blocks, P, T>(task, panels, blocks, token, first, ahead);
}

template <class Blocks, class Source = Rows>
void run_unpacked(const MatmulTask& task) {
  using Panel = typename Blocks::Panel;
  const int64_t blocks = task.cols / Blocks::kValues, row_bytes = blocks * Blocks::kBytes;
  const int64_t group = panel_group<Blocks>(blocks);
  Panel* panels = reinterpret_cast<Panel*>(task.scratch + round_up(kWidth * row_bytes, 64));
  const int64_t tiles = (task.tokens + kTileTokens - 1) / kTileTokens;
  for (int64_t begin = 0; begin < task.rows; begin += group * kWidth) {
    const int64_t count = smaller(group, (task.rows - begin + kWidth - 1) / kWidth);
    for (int64_t p = 0; p < count; ++p) {
      // Nobody has fetched the first panels; the next ones are on their way while these are unpacked.
      const int64_t first = begin + p * kWidth;
      Ahead ahead{nullptr, nullptr, 0};
      if (begin == 0 && p + 1 < count) ahead = ahead_of(task, first + kWidth, kWidth, blocks);
      Blocks::unpack(panel_of<Source>(task, first, row_bytes), blocks, ahead, panels + p * blocks);
    }
    constexpr int64_t kTilePanels = Blocks::kTilePanels;
    const int64_t steps = (count + kTilePanels - 1) / kTilePanels;
    Ahead ahead = ahead_of(task, begin + group * kWidth, group * kWidth, tiles * steps * blocks);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t token = tile_begin(tile, tiles, task.tokens), end = tile_begin(tile + 1, tiles, task.tokens);
      int64_t p = 0;
      for (; p + kTilePanels <= count; p += kTilePanels)
        run_tile_of<Blocks, kTilePanels>(end - token, task, panels + p * blocks, blocks, token, begin + p * kWidth,
                                         ahead);
      for (; p < count; ++p)
        run_tile_of<Blocks, 1>(end - token, task, panels + p * blocks, blocks, token, begin + p * kWidth, ahead);
    }
  }
}
