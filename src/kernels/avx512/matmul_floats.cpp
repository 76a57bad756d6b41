#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx512.h"
#include "quant/codec.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

COTERIE_BEGIN_AVX512

namespace coterie::kernels::avx512 {

namespace {
#include "kernels/avx512/matmul_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/matmul/float_kernel.inl.h"
}  // namespace

namespace {
constexpr FormatKernel kFormats[] = {{tensor::DType::f32, float_kernel<ReadF32>()},
                                     {tensor::DType::f16, float_kernel<ReadF16>()},
                                     {tensor::DType::bf16, float_kernel<ReadBF16>()}};
}  // namespace

}  // namespace coterie::kernels::avx512

COTERIE_END

namespace coterie::kernels::avx512 {

void add_matmul_floats(MatmulKernel* exact, MatmulKernel* fast) {
  using tensor::DType;
  for (int i = 0; i < tensor::kDTypes; ++i) {
    const DType dtype = static_cast<DType>(i);
    if (tensor::is_block(dtype)) exact[i] = {run_decoded, floats_scratch, ActivationForm::floats};
  }
  for (MatmulKernel* kernels : {exact, fast})
    for (const FormatKernel& format : kFormats) kernels[static_cast<int>(format.dtype)] = format.kernel;
}

}  // namespace coterie::kernels::avx512
