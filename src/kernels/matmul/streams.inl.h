// Few tokens by repacked rows: what decoding is made of. A panel is one run of bytes, and so are panels that follow
// each other; how a thread walks them is the processor's matter (ReadAhead, docs/design/matmul.md). One whose
// prefetcher follows a stream only within a page, and has few places for lines that are under way, wants several
// streams side by side and what lies some way ahead in each to be prefetched.
#pragma once
#include "kernels/matmul/panels.inl.h"
#include "kernels/matmul/repacked.inl.h"
#include "kernels/matmul/tile.inl.h"

inline constexpr int kMostStreams = 4;

/// Panels that follow each other.
struct Stream {
  const std::byte* at;     // what is multiplied
  const std::byte* ahead;  // what is prefetched, until `end`; then what this thread will probably read after it
  const std::byte* end;
  const std::byte* after;
  int64_t after_bytes;

  /// The share of the next block, or nothing.
  COTERIE_INLINE Ahead prefetch(int64_t bytes) {
    if (ahead >= end) {
      if (!after) return {nullptr, nullptr, 0};
      ahead = after, end = after + after_bytes, after = nullptr;
    }
    const std::byte* const from = ahead;
    ahead += bytes;
    return {from, ahead, (bytes + 63) / 64, true};
  }
};

/// Blocks of a format by repacked rows. What walks them asks of any such class how many bytes and values a block of a
/// row has, whether it is good at S streams, how many tokens a tile of S panels has, and the tile.
template <class Blocks>
struct FewRepacked {
  static constexpr int64_t kBytes = Blocks::kBytes, kValues = Blocks::kValues;
  // Two streams of more than two tokens are slower than one: GCC 12 spills them (q4_k, AVX2, four tokens: half as
  // fast).
  static bool takes(int streams, const MatmulTask& task) {
    return streams <= task.read_ahead.streams && !(streams == 2 && task.tokens > 2);
  }
  static constexpr int tile_tokens(int /*streams*/) { return kRepackedTile; }

  /// A panel of each of S streams, block by block in turn, times T tokens. `first`: its row in the task, of each.
  template <int S, int T>
  static void tile(const MatmulTask& task, int64_t blocks, int64_t token, bool prefetch, const int64_t* first,
                   Stream* streams) {
    constexpr int64_t kStep = kBytes * kWidth;
    const typename Blocks::X* x[T];
    Vf y[S][T];
    begin_tile(task.x + token, x, y);
    for (int64_t b = 0; b < blocks; ++b) {
#pragma GCC unroll 1
      for (int s = 0; s < S; ++s) {
        Ahead ahead{nullptr, nullptr, 0, true};
        if (prefetch) ahead = streams[s].prefetch(kStep);
        Blocks::template fused_block<T>(Repacked{streams[s].at + b * kStep}, x, ahead, y[s]);
      }
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) ++x[t];
    }
    for (int s = 0; s < S; ++s) {
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) store_rows(task, token + t, first[s], y[s][t]);
    }
  }
};

template <class Few, int S, int T = Few::tile_tokens(S)>
COTERIE_INLINE void run_streams_tile_of(int64_t tokens, const MatmulTask& task, int64_t blocks, int64_t token,
                                        bool prefetch, const int64_t* first, Stream* streams) {
  if constexpr (T > 1) {
    if (tokens < T) return run_streams_tile_of<Few, S, T - 1>(tokens, task, blocks, token, prefetch, first, streams);
  }
  Few::template tile<S, T>(task, blocks, token, prefetch, first, streams);
}

/// Panels [begin, begin + S * each) of a task, cut into S streams; panels up to `end` come after them.
template <class Few, int S>
void run_streams_of(const MatmulTask& task, int64_t begin, int64_t each, int64_t end) {
  constexpr int64_t kTokens = Few::tile_tokens(S);
  const int64_t blocks = task.cols / Few::kValues, panel_bytes = blocks * Few::kBytes * kWidth;
  const int64_t tiles = (task.tokens + kTokens - 1) / kTokens;
  const int64_t rest = begin + S * each, next_part = task.next_bytes / S / panel_bytes * panel_bytes;
  Stream streams[S];
  int64_t first[S];
  for (int s = 0; s < S; ++s) {
    const int64_t panel = begin + s * each;
    const std::byte* const at = task.weights + panel * panel_bytes;
    streams[s] = {at, at + task.read_ahead.bytes, at + each * panel_bytes, nullptr, 0};
    // After it comes a panel of those that are left over, or, when none is, a part of the next task.
    if (rest + s < end)
      streams[s].after = task.weights + (rest + s) * panel_bytes, streams[s].after_bytes = panel_bytes;
    else if (rest == end && next_part > 0)
      streams[s].after = task.next + s * next_part, streams[s].after_bytes = next_part;
    first[s] = panel * kWidth;
  }
  for (int64_t i = 0; i < each; ++i) {
    for (int64_t tile = 0; tile < tiles; ++tile) {  // the second finds the panels in a cache
      const int64_t token = tile_begin(tile, tiles, task.tokens), past = tile_begin(tile + 1, tiles, task.tokens);
      run_streams_tile_of<Few, S>(past - token, task, blocks, token, tile == 0 && task.read_ahead.bytes > 0, first,
                                  streams);
    }
    for (int s = 0; s < S; ++s) streams[s].at += panel_bytes, first[s] += kWidth;
  }
}

/// Panels [begin, end): as many as divide by S side by side, the rest by fewer.
template <class Few, int S>
void run_panels(const MatmulTask& task, int64_t begin, int64_t end) {
  const int64_t each = Few::takes(S, task) ? (end - begin) / S : 0;
  if (each > 0) run_streams_of<Few, S>(task, begin, each, end);
  if constexpr (S > 1) run_panels<Few, S / 2>(task, begin + S * each, end);
}

template <class Few>
void run_streams(const MatmulTask& task) {
  run_panels<Few, kMostStreams>(task, 0, task.rows / kWidth);
}
