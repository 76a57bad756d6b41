#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/grid_tables.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/target.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

COTERIE_BEGIN_AMX

namespace coterie::kernels::amx {

namespace {
#include "kernels/avx512/matmul_lanes.inl.h"

#include "kernels/matmul/turned.inl.h"

#include "kernels/matmul/formats256.inl.h"

#include "kernels/matmul/formats_grid.inl.h"

#include "kernels/matmul/tile.inl.h"

#include "kernels/matmul/blocks256.inl.h"

#include "kernels/matmul/panels.inl.h"

#include "kernels/amx/tiles.inl.h"

#include "kernels/amx/matmul_tiles256.inl.h"

#include "kernels/amx/matmul_tiles.inl.h"
}  // namespace

void add_matmul_grids(MatmulKernel* fast) {
  using tensor::DType;
  use_tiles<Tiles256<IQ2XXS>>(fast[static_cast<int>(DType::iq2_xxs)]);
  use_tiles<Tiles256<IQ2XS>>(fast[static_cast<int>(DType::iq2_xs)]);
  use_tiles<Tiles256<IQ2S>>(fast[static_cast<int>(DType::iq2_s)]);
  use_tiles<Tiles256<IQ3XXS>>(fast[static_cast<int>(DType::iq3_xxs)]);
  use_tiles<Tiles256<IQ3S>>(fast[static_cast<int>(DType::iq3_s)]);
  use_tiles<Tiles256<IQ1S>>(fast[static_cast<int>(DType::iq1_s)]);
  use_tiles<Tiles256<IQ1M>>(fast[static_cast<int>(DType::iq1_m)]);
  use_tiles<Tiles256<TQ1_0>>(fast[static_cast<int>(DType::tq1_0)]);
  use_tiles<Tiles256<TQ2_0>>(fast[static_cast<int>(DType::tq2_0)]);
}

}  // namespace coterie::kernels::amx

COTERIE_END
