#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx2.h"
#include "quant/codec.h"
#include "quant/scaled_blocks.h"

COTERIE_BEGIN_AVX2

namespace coterie::kernels::avx2 {

namespace {
#include "kernels/avx2/matmul_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/matmul/scaled_floats.inl.h"
}  // namespace

}  // namespace coterie::kernels::avx2

COTERIE_END

namespace coterie::kernels::avx2 {

void add_matmul_scaled(MatmulKernel* exact, MatmulKernel* fast) {
  for (MatmulKernel* kernels : {exact, fast})
    for (const FormatKernel& format : kFormats) kernels[static_cast<int>(format.dtype)] = format.kernel;
}

}  // namespace coterie::kernels::avx2
