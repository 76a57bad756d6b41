#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/grid_tables.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx512.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

COTERIE_BEGIN_AMX

namespace coterie::kernels::amx {

namespace {
using namespace avx512;
#include "kernels/avx512/matmul_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/amx/matmul_tiles.inl.h"
#include "kernels/matmul/blocks256.inl.h"
#include "kernels/matmul/formats_grid.inl.h"
}  // namespace

namespace {
constexpr TileFormat kFormats[] = {
    tile_format<Tiles256<IQ2XXS>>(tensor::DType::iq2_xxs), tile_format<Tiles256<IQ2XS>>(tensor::DType::iq2_xs),
    tile_format<Tiles256<IQ2S>>(tensor::DType::iq2_s),     tile_format<Tiles256<IQ3XXS>>(tensor::DType::iq3_xxs),
    tile_format<Tiles256<IQ3S>>(tensor::DType::iq3_s),     tile_format<Tiles256<IQ1S>>(tensor::DType::iq1_s),
    tile_format<Tiles256<IQ1M>>(tensor::DType::iq1_m),     tile_format<Tiles256<TQ1_0>>(tensor::DType::tq1_0),
    tile_format<Tiles256<TQ2_0>>(tensor::DType::tq2_0),
};
}  // namespace

}  // namespace coterie::kernels::amx

COTERIE_END

namespace coterie::kernels::amx {

void add_matmul_grids(MatmulKernel* fast) {
  for (const TileFormat& format : kFormats) {
    MatmulKernel& kernel = fast[static_cast<int>(format.dtype)];
    *format.few = kernel;
    kernel.run = format.run, kernel.scratch_bytes = format.scratch_bytes, kernel.tiles_from = kLeastTokens;
  }
}

}  // namespace coterie::kernels::amx
