#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx512.h"
#include "quant/codec.h"
#include "quant/scaled_blocks.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

COTERIE_BEGIN_AVX512

namespace coterie::kernels::avx512 {

namespace {
#include "kernels/avx512/matmul_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/matmul/scaled_floats.inl.h"
}  // namespace

}  // namespace coterie::kernels::avx512

COTERIE_END

namespace coterie::kernels::avx512 {

void add_matmul_scaled(MatmulKernel* exact, MatmulKernel* fast) {
  for (MatmulKernel* kernels : {exact, fast})
    for (const FormatKernel& format : kFormats) kernels[static_cast<int>(format.dtype)] = format.kernel;
}

}  // namespace coterie::kernels::avx512
