#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx2.h"

COTERIE_BEGIN_AVX2

namespace coterie::kernels::avx2 {

namespace {
#include "kernels/avx2/matmul_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/avx2/matmul_words.inl.h"
#include "kernels/matmul/block_kernel.inl.h"
#include "kernels/matmul/blocks32.inl.h"

template <class Format>
using WordBlocks32 = Words<Format, Blocks32<Format>, ActivationBlock32, Header32>;
}  // namespace

namespace {
constexpr FormatKernel kFormats[] = {
    {tensor::DType::q4_0, block_kernel<Blocks32<Q4_0>>()},
    {tensor::DType::q4_1, block_kernel<Blocks32<Q4_1>>()},
    {tensor::DType::q5_0, block_kernel<Blocks32<Q5_0>>()},
    {tensor::DType::q5_1, block_kernel<Blocks32<Q5_1>>()},
    {tensor::DType::q8_0, block_kernel<WordBlocks32<Q8_0>>()},
    {tensor::DType::iq4_nl, block_kernel<WordBlocks32<IQ4NL>>()},
    {tensor::DType::mxfp4, block_kernel<Blocks32<MXFP4>>()},
};
}  // namespace

}  // namespace coterie::kernels::avx2

COTERIE_END

namespace coterie::kernels::avx2 {

void add_matmul_blocks32(MatmulKernel* fast) {
  for (const FormatKernel& format : kFormats) fast[static_cast<int>(format.dtype)] = format.kernel;
}

}  // namespace coterie::kernels::avx2
