#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx512.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

COTERIE_BEGIN_AMX

namespace coterie::kernels::amx {

namespace {
using namespace avx512;
#include "kernels/avx512/matmul_lanes.inl.h"

#include "kernels/amx/tiles.inl.h"
}  // namespace

int64_t peak_tiles(int64_t rounds, int32_t* sink) noexcept {
  configure_tiles(kTileRows);
  alignas(64) int8_t ones[kTileBytes];
  __builtin_memset(ones, 1, sizeof(ones));
  load_tile<4>(ones, 64), load_tile<5>(ones, 64), load_tile<6>(ones, 64), load_tile<7>(ones, 64);
  zero_sums<4>();
  for (int64_t round = 0; round < rounds; ++round) add_products<2, 2, true>();
  Sums sums[4];
  store_sums<4>(sums);
  release_tiles();
  *sink = sums[0].lane[0][0] + sums[3].lane[0][0];
  return 4 * kTileRows * kWidth * 64;
}

}  // namespace coterie::kernels::amx

COTERIE_END
