#include "kernels/avx512/matmul_halves.h"

#include <immintrin.h>

#include "kernels/matmul/rows.h"
#include "kernels/simd/avx2.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

// One token by repacked rows of the formats that decoding is made of: each panel as two halves of eight rows, in
// registers of 256 bits. With those of 512 what is computed and what is waited for add up instead of overlapping, and
// blocks that do not end at a line (q6_k) are read across lines. (Emerald Rapids, two threads, 2026-12-01, of the rate
// of four streams: docs/log.md.) The integers and the f32 steps of each row are the same, so the bits are too.
COTERIE_BEGIN_AVX512

namespace coterie::kernels::avx512 {

namespace {
using namespace avx2;                              // its words
#include "kernels/avx512/matmul_half_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/matmul/blocks256.inl.h"
#include "kernels/matmul/streams.inl.h"

/// As FewRepacked, token by token.
template <class Blocks>
struct FewHalves {
  static constexpr int64_t kBytes = Blocks::kBytes, kValues = Blocks::kValues;
  static bool takes(int streams, const MatmulTask& task) { return streams <= task.read_ahead.streams; }
  static constexpr int tile_tokens(int /*streams*/) { return 1; }

  template <int S, int T>
  static void tile(const MatmulTask& task, int64_t blocks, int64_t token, bool prefetch, const int64_t* first,
                   Stream* streams) {
    static_assert(T == 1);
    constexpr int64_t kStep = kBytes * kWidth;
    const typename Blocks::X* x[1] = {reinterpret_cast<const typename Blocks::X*>(task.x[token])};
    Vf y[S][2][1];
    for (int s = 0; s < S; ++s) y[s][0][0] = y[s][1][0] = zero();
    for (int64_t b = 0; b < blocks; ++b, ++x[0]) {
#pragma GCC unroll 1
      for (int s = 0; s < S; ++s) {
        Ahead ahead{nullptr, nullptr, 0, true};
        if (prefetch) ahead = streams[s].prefetch(kStep);
        ahead.lines = (ahead.lines + 1) / 2;  // of each half
#pragma GCC unroll 1
        for (int half = 0; half < 2; ++half)
          Blocks::template fused_block<1>(Repacked{streams[s].at + b * kStep, half}, x, ahead, y[s][half]);
      }
    }
    for (int s = 0; s < S; ++s)
      for (int half = 0; half < 2; ++half)
        store(task.y + token * task.y_stride + first[s] + half * kHalf, y[s][half][0]);
  }
};

template <class Format>
void run_halves(const MatmulTask& task) {
  run_streams<FewHalves<Blocks256<Format>>>(task);
}
}  // namespace

void halves_q4_k(const MatmulTask& task) noexcept { run_halves<Q4K>(task); }
void halves_q5_k(const MatmulTask& task) noexcept { run_halves<Q5K>(task); }
void halves_q6_k(const MatmulTask& task) noexcept { run_halves<Q6K>(task); }

}  // namespace coterie::kernels::avx512

COTERIE_END
