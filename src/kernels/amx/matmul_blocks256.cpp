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

#include "kernels/matmul/formats256.inl.h"

#include "kernels/matmul/tile.inl.h"

#include "kernels/matmul/blocks256.inl.h"

#include "kernels/matmul/panels.inl.h"

#include "kernels/amx/tiles.inl.h"

#include "kernels/amx/matmul_tiles256.inl.h"

#include "kernels/amx/matmul_tiles.inl.h"
}  // namespace

void add_matmul_blocks256(MatmulKernel* fast) {
  using tensor::DType;
  use_tiles<Tiles256<Q2K>>(fast[static_cast<int>(DType::q2_k)]);
  use_tiles<Tiles256<Q3K>>(fast[static_cast<int>(DType::q3_k)]);
  use_tiles<Tiles256<Q4K>>(fast[static_cast<int>(DType::q4_k)]);
  use_tiles<Tiles256<Q5K>>(fast[static_cast<int>(DType::q5_k)]);
  use_tiles<Tiles256<Q6K>>(fast[static_cast<int>(DType::q6_k)]);
  use_tiles<Tiles256<IQ4XS>>(fast[static_cast<int>(DType::iq4_xs)]);
}

}  // namespace coterie::kernels::amx

COTERIE_END
