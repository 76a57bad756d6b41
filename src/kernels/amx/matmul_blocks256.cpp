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
#include "kernels/avx512/matmul_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/amx/matmul_tiles.inl.h"
#include "kernels/matmul/blocks256.inl.h"
}  // namespace

namespace {
constexpr TileFormat kFormats[] = {
    tile_format<Tiles256<Q2K>>(tensor::DType::q2_k), tile_format<Tiles256<Q3K>>(tensor::DType::q3_k),
    tile_format<Tiles256<Q4K>>(tensor::DType::q4_k), tile_format<Tiles256<Q5K>>(tensor::DType::q5_k),
    tile_format<Tiles256<Q6K>>(tensor::DType::q6_k), tile_format<Tiles256<IQ4XS>>(tensor::DType::iq4_xs),
};
}  // namespace

}  // namespace coterie::kernels::amx

COTERIE_END

namespace coterie::kernels::amx {

void add_matmul_blocks256(MatmulKernel* fast) {
  for (const TileFormat& format : kFormats) {
    MatmulKernel& kernel = fast[static_cast<int>(format.dtype)];
    *format.few = kernel;
    kernel.run = format.run, kernel.scratch_bytes = format.scratch_bytes, kernel.tiles_from = kLeastTokens;
  }
}

}  // namespace coterie::kernels::amx
