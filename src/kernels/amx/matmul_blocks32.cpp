#include <immintrin.h>

#include "kernels/matmul.h"
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

#include "kernels/matmul/formats32.inl.h"

#include "kernels/matmul/tile.inl.h"

#include "kernels/matmul/blocks32.inl.h"

#include "kernels/matmul/panels.inl.h"

#include "kernels/amx/tiles.inl.h"

#include "kernels/amx/matmul_tiles32.inl.h"

#include "kernels/amx/matmul_tiles.inl.h"
}  // namespace

void add_matmul_blocks32(MatmulKernel* fast) {
  using tensor::DType;
  use_tiles<Tiles32<Q4_0>>(fast[static_cast<int>(DType::q4_0)]);
  use_tiles<Tiles32<Q4_1>>(fast[static_cast<int>(DType::q4_1)]);
  use_tiles<Tiles32<Q5_0>>(fast[static_cast<int>(DType::q5_0)]);
  use_tiles<Tiles32<Q5_1>>(fast[static_cast<int>(DType::q5_1)]);
  use_tiles<Tiles32<Q8_0>>(fast[static_cast<int>(DType::q8_0)]);
  use_tiles<Tiles32<IQ4NL>>(fast[static_cast<int>(DType::iq4_nl)]);
  use_tiles<Tiles32<MXFP4>>(fast[static_cast<int>(DType::mxfp4)]);
}

}  // namespace coterie::kernels::amx

COTERIE_END
