// Floats by repacked rows (MatmulKernels::repack): lanes lie side by side already, so few tokens are multiplied
// straight from there, in the streams that a processor wants, and more unpack panels by loads alone. The sums are those
// of floats.inl.h.
#pragma once
#include "kernels/matmul/floats.inl.h"
#include "kernels/matmul/streams.inl.h"

/// A few tokens: a tile of so many streams and tokens that its sums stay in registers. Sums wait for themselves, a few
/// of them together less, so that there are two streams at least where registers allow it, whatever the processor
/// wants.
template <class Read>
struct FewRepackedFloats {
  static constexpr int64_t kBytes = order_of(Read::kRepacked).block_bytes, kValues = kBytes / Read::kBytes;
  static_assert(kChunk % kValues == 0);
  static_assert(kSumsOfFewFloats >= kRepackedFew);  // all of them in one tile of one stream

  static bool takes(int streams, const MatmulTask& task) {
    return streams == 1 || (streams <= larger(task.read_ahead.streams, 2) && streams * task.tokens <= kSumsOfFewFloats);
  }
  static constexpr int tile_tokens(int streams) {
    return static_cast<int>(smaller(kSumsOfFewFloats / streams, kRepackedFew));
  }

  template <int S, int T>
  static void tile(const MatmulTask& task, int64_t blocks, int64_t token, bool prefetch, const int64_t* first,
                   Stream* streams) {
    constexpr int64_t kStep = kBytes * kWidth, kBlocksOfChunk = kChunk / kValues;
    for (int64_t begin = 0; begin < blocks; begin += kBlocksOfChunk) {
      const int64_t end = smaller(begin + kBlocksOfChunk, blocks);
      const float* x[T];
      Vf sum[S][T];
      begin_tile(task.x + token, x, sum);
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) x[t] += begin * kValues;
      for (int64_t b = begin; b < end; ++b) {
        if (prefetch) {
          COTERIE_UNROLL
          for (int s = 0; s < S; ++s) {
            Ahead ahead = streams[s].prefetch(kStep);
            fetch(ahead);
          }
        }
        COTERIE_UNROLL
        for (int i = 0; i < kValues; ++i) {
          Vf value[T];
          COTERIE_UNROLL
          for (int t = 0; t < T; ++t) value[t] = set(x[t][i]);
          COTERIE_UNROLL
          for (int s = 0; s < S; ++s) {
            const Vf w = Read::value(Repacked{streams[s].at + b * kStep}, i);
            COTERIE_UNROLL
            for (int t = 0; t < T; ++t) sum[s][t] = fma(w, value[t], sum[s][t]);
          }
        }
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) x[t] += kValues;
      }
      COTERIE_UNROLL
      for (int s = 0; s < S; ++s) {
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) add_rows(task, token + t, first[s], begin == 0, sum[s][t]);
      }
    }
  }
};

template <class Read>
struct UnpackRepacked {
  const MatmulTask& task;
  COTERIE_INLINE void operator()(int64_t first, int64_t begin, int64_t count, float* panel) const {
    constexpr int64_t kBytes = FewRepackedFloats<Read>::kBytes, kValues = FewRepackedFloats<Read>::kValues;
    Repacked block{task.weights + first * task.row_stride + begin * Read::kBytes * kWidth};
    for (int64_t k = 0; k < count; k += kValues, block.data += kBytes * kWidth) {
      COTERIE_UNROLL
      for (int i = 0; i < kValues; ++i) store(panel + (k + i) * kWidth, Read::value(block, i));
    }
  }
};
