#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx512.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

COTERIE_BEGIN_AVX512

namespace coterie::kernels::avx512 {

namespace {
#include "kernels/avx512/matmul_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/matmul/block_kernel.inl.h"
#include "kernels/matmul/blocks32.inl.h"
}  // namespace

namespace {
constexpr FormatKernel kFormats[] = {
    {tensor::DType::q4_0, block_kernel<Blocks32<Q4_0>>()},   {tensor::DType::q4_1, block_kernel<Blocks32<Q4_1>>()},
    {tensor::DType::q5_0, block_kernel<Blocks32<Q5_0>>()},   {tensor::DType::q5_1, block_kernel<Blocks32<Q5_1>>()},
    {tensor::DType::q8_0, block_kernel<Blocks32<Q8_0>>()},   {tensor::DType::iq4_nl, block_kernel<Blocks32<IQ4NL>>()},
    {tensor::DType::mxfp4, block_kernel<Blocks32<MXFP4>>()},
};
}  // namespace

}  // namespace coterie::kernels::avx512

COTERIE_END

namespace coterie::kernels::avx512 {

void add_matmul_blocks32(MatmulKernel* fast) {
  for (const FormatKernel& format : kFormats) fast[static_cast<int>(format.dtype)] = format.kernel;
}

}  // namespace coterie::kernels::avx512
