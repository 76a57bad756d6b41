// The walk over a task's rows. `Tiles` says how a block of a panel is laid out (unpack), multiplied (multiply) and what
// then happens to the sums (finish). The rows of x are packed first: of each
// block the values of a tile's tokens side by side. Tokens that a tile lacks are rows of zeros.
#pragma once
#include "kernels/amx/matmul_tiles256.inl.h"
#include "kernels/matmul/panels.inl.h"

inline constexpr int64_t kPackedBytes = 256 << 10;  // of x at a time: with the panels it stays in the second cache

/// Tokens that are packed at a time, for rows of `cols` values.
COTERIE_INLINE int64_t packed_tokens(int64_t cols) {
  const int64_t fit = kPackedBytes / larger(cols, 1) / (2 * kTileRows) * (2 * kTileRows);
  return larger(smaller(fit, 512), 2 * kTileRows);
}

inline constexpr int64_t kPanelsUnderWay = 3;  // one unpacked, one multiplied, one whose sums are finished

/// The parts of a task's scratch.
template <class Tiles>
struct TileScratch {
  using Panel = typename Tiles::Panel;
  using Side = typename Tiles::Side;
  int64_t panels, sums, outputs, packed, sides, end;

  explicit TileScratch(int64_t cols) {
    const int64_t blocks = cols / Tiles::kValues, tokens = packed_tokens(cols);
    panels = round_up(kWidth * blocks * Tiles::kBytes, 64);  // after the rows that panel_rows() copies
    sums = panels + kPanelsUnderWay * round_up(sizeof(Panel), 64);
    outputs = sums + 2 * 4 * static_cast<int64_t>(sizeof(Sums));
    packed = outputs + tokens * kWidth * static_cast<int64_t>(sizeof(float));
    sides = packed + tokens * cols;
    end = sides + round_up(tokens * blocks * static_cast<int64_t>(sizeof(Side)), 64);
  }
};

/// x of some tokens for tiles of `rows` tokens each: [block][tile][row][value].
template <class Tiles>
struct PackedTokens {
  int8_t* codes;
  typename Tiles::Side* sides;
  int64_t tokens, tiles, rows, blocks;

  int64_t tile_bytes() const { return rows * Tiles::kValues; }
  const int8_t* codes_of(int64_t block, int64_t tile) const { return codes + (block * tiles + tile) * tile_bytes(); }
  const typename Tiles::Side* sides_of(int64_t block, int64_t tile) const {
    return sides + (block * tiles + tile) * rows;
  }
  int64_t tokens_of(int64_t tile) const { return smaller(rows, tokens - tile * rows); }

  void take(const std::byte* const* x) {
    for (int64_t t = 0; t < tiles * rows; ++t) {
      int8_t* out = codes + t * Tiles::kValues;
      typename Tiles::Side* side = sides + t;
      for (int64_t b = 0; b < blocks; ++b, out += tiles * tile_bytes(), side += tiles * rows) {
        if (t < tokens) {
          __builtin_memcpy(out, Tiles::codes_of(x[t], b), Tiles::kValues);
          Tiles::take_side(x[t], b, *side);
        } else {
          __builtin_memset(out, 0, Tiles::kValues);
        }
      }
    }
  }
};

/// One or two tiles of tokens whose sums of a block wait for their f32 steps.
template <class Tiles>
struct Waiting {
  const typename Tiles::Panel* panel = nullptr;
  const Sums* sums;
  int64_t block, tile;
  int count;

  COTERIE_INLINE void finish(const PackedTokens<Tiles>& x, float (*y)[kWidth]) {
    if (!panel) return;
    for (int i = 0; i < count; ++i)
      Tiles::finish(*panel, sums + i * Tiles::kPlanes, x.sides_of(block, tile + i), x.tokens_of(tile + i),
                    y + (tile + i) * x.rows);
    panel = nullptr;
  }
};

/// A panel times all packed tokens. A tile cannot be loaded from what was just stored, nor its sums be read the moment
/// they are: so each block is unpacked a step before its products, and the f32 steps come a step after them.
template <class Tiles, class Source>
COTERIE_INLINE void run_panel(Source rows, const PackedTokens<Tiles>& x, Ahead& ahead, typename Tiles::Panel* panels,
                              Sums* sums, float (*y)[kWidth]) {
  Waiting<Tiles> waiting;
  int step = 0;
  Tiles::unpack(rows, ahead, panels[0]);
  for (int64_t b = 0; b < x.blocks; ++b) {
    const typename Tiles::Panel& panel = panels[b % kPanelsUnderWay];
    for (int64_t tile = 0; tile < x.tiles; ++step) {
      Sums* const into = sums + step % 2 * 4;
      const int count = tile + 2 <= x.tiles ? 2 : 1;
      if (count == 2)
        Tiles::template multiply<2>(panel, x.codes_of(b, tile), x.tile_bytes(), into);
      else
        Tiles::template multiply<1>(panel, x.codes_of(b, tile), x.tile_bytes(), into);
      if (tile == 0 && b + 1 < x.blocks) {
        rows.data += step_bytes(rows, Tiles::kBytes);
        Tiles::unpack(rows, ahead, panels[(b + 1) % kPanelsUnderWay]);
      }
      waiting.finish(x, y);
      waiting = {&panel, into, b, tile, count};
      tile += count;
    }
  }
  waiting.finish(x, y);
}

template <class Tiles, class Source>
void run_tiles_of(const MatmulTask& task) {
  const int64_t blocks = task.cols / Tiles::kValues, row_bytes = blocks * Tiles::kBytes;
  const TileScratch<Tiles> at(task.cols);
  auto* const panels = reinterpret_cast<typename Tiles::Panel*>(task.scratch + at.panels);
  auto* const sums = reinterpret_cast<Sums*>(task.scratch + at.sums);
  auto* const y = reinterpret_cast<float(*)[kWidth]>(task.scratch + at.outputs);
  PackedTokens<Tiles> x{};
  x.codes = reinterpret_cast<int8_t*>(task.scratch + at.packed);
  x.sides = reinterpret_cast<typename Tiles::Side*>(task.scratch + at.sides);
  x.blocks = blocks;
  const int64_t most = packed_tokens(task.cols), groups = (task.tokens + most - 1) / most;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t begin = tile_begin(group, groups, task.tokens);
    x.tokens = tile_begin(group + 1, groups, task.tokens) - begin;
    x.tiles = (x.tokens + kTileRows - 1) / kTileRows, x.rows = (x.tokens + x.tiles - 1) / x.tiles;
    x.take(task.x + begin);
    configure_tiles(x.rows);
    for (int64_t first = 0; first < task.rows; first += kWidth) {
      for (int64_t t = 0; t < x.tiles * x.rows; ++t) store(y[t], zero());
      Ahead ahead = ahead_of(task, first + kWidth, kWidth, blocks);
      run_panel<Tiles>(panel_of<Source>(task, first, row_bytes), x, ahead, panels, sums, y);
      for (int64_t t = 0; t < x.tokens; ++t) store_rows(task, begin + t, first, load(y[t]));
    }
  }
  release_tiles();
}

inline constexpr int64_t kLeastTokens = 9;  // with fewer the vector kernels read the weights as fast

/// What the vector kernels of a format are, for few tokens; set when the table is made.
template <class Tiles>
MatmulKernel vector_kernel;

template <class Tiles>
void run_tiles(const MatmulTask& task) noexcept {
  if (task.tokens < kLeastTokens) return vector_kernel<Tiles>.run(task);
  if (task.repacked) return run_tiles_of<Tiles, Repacked>(task);
  run_tiles_of<Tiles, Rows>(task);
}
template <class Tiles>
int64_t tile_scratch(tensor::DType dtype, int64_t cols) noexcept {
  return larger(vector_kernel<Tiles>.scratch_bytes(dtype, cols), TileScratch<Tiles>(cols).end);
}

/// A format, where run_tiles finds its kernel for few tokens, and what takes that kernel's place.
struct TileFormat {
  tensor::DType dtype;
  MatmulKernel* few;
  void (*run)(const MatmulTask&) noexcept;
  int64_t (*scratch_bytes)(tensor::DType, int64_t) noexcept;
};
template <class Tiles>
constexpr TileFormat tile_format(tensor::DType dtype) {
  return {dtype, &vector_kernel<Tiles>, run_tiles<Tiles>, tile_scratch<Tiles>};
}
