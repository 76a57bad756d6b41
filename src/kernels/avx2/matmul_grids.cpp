#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/grid_tables.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx2.h"

COTERIE_BEGIN_AVX2

namespace coterie::kernels::avx2 {

namespace {
#include "kernels/avx2/matmul_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/avx2/matmul_words.inl.h"
#include "kernels/matmul/block_kernel.inl.h"
#include "kernels/matmul/blocks256.inl.h"
#include "kernels/matmul/formats_grid.inl.h"

/// Signed codes: many tokens as words.
template <class Format>
using WordGrid = Words<Format, Blocks256<Format>, ActivationBlock256, Header256<256 / Format::kSub>>;
}  // namespace

namespace {
constexpr FormatKernel kFormats[] = {
    {tensor::DType::iq2_xxs, block_kernel<WordGrid<IQ2XXS>>()},
    {tensor::DType::iq2_xs, block_kernel<WordGrid<IQ2XS>>()},
    {tensor::DType::iq2_s, block_kernel<WordGrid<IQ2S>>()},
    {tensor::DType::iq3_xxs, block_kernel<WordGrid<IQ3XXS>>()},
    {tensor::DType::iq3_s, block_kernel<Blocks256<IQ3S>>()},
    {tensor::DType::iq1_s, block_kernel<Blocks256<IQ1S>>()},
    {tensor::DType::iq1_m, block_kernel<Blocks256<IQ1M>>()},
    {tensor::DType::tq1_0, block_kernel<Blocks256<TQ1_0>>()},
    {tensor::DType::tq2_0, block_kernel<Blocks256<TQ2_0>>()},
};
}  // namespace

}  // namespace coterie::kernels::avx2

COTERIE_END

namespace coterie::kernels::avx2 {

void add_matmul_grids(MatmulKernel* fast) {
  for (const FormatKernel& format : kFormats) fast[static_cast<int>(format.dtype)] = format.kernel;
}

}  // namespace coterie::kernels::avx2
