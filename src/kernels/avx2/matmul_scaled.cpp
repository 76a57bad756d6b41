#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/target.h"
#include "quant/codec.h"
#include "quant/scaled_blocks.h"

COTERIE_BEGIN_AVX2

namespace coterie::kernels::avx2 {

namespace {
#include "kernels/avx2/matmul_lanes.inl.h"

#include "kernels/matmul/turned.inl.h"

#include "kernels/matmul/tile.inl.h"

#include "kernels/matmul/panels.inl.h"

#include "kernels/matmul/streams.inl.h"

#include "kernels/matmul/floats.inl.h"

#include "kernels/matmul/scaled_floats.inl.h"
}  // namespace

void add_matmul_scaled(MatmulKernel* exact, MatmulKernel* fast) { add_all_scaled(exact, fast); }

}  // namespace coterie::kernels::avx2

COTERIE_END
