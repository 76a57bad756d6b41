#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/grid_tables.h"
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
#include "kernels/matmul/blocks256.inl.h"
#include "kernels/matmul/formats_grid.inl.h"
}  // namespace

namespace {
constexpr FormatKernel kFormats[] = {
    {tensor::DType::iq2_xxs, block_kernel<Blocks256<IQ2XXS>>()},
    {tensor::DType::iq2_xs, block_kernel<Blocks256<IQ2XS>>()},
    {tensor::DType::iq2_s, block_kernel<Blocks256<IQ2S>>()},
    {tensor::DType::iq3_xxs, block_kernel<Blocks256<IQ3XXS>>()},
    {tensor::DType::iq3_s, block_kernel<Blocks256<IQ3S>>()},
    {tensor::DType::iq1_s, block_kernel<Blocks256<IQ1S>>()},
    {tensor::DType::iq1_m, block_kernel<Blocks256<IQ1M>>()},
    {tensor::DType::tq1_0, block_kernel<Blocks256<TQ1_0>>()},
    {tensor::DType::tq2_0, block_kernel<Blocks256<TQ2_0>>()},
};
}  // namespace

}  // namespace coterie::kernels::avx512

COTERIE_END

namespace coterie::kernels::avx512 {

void add_matmul_grids(MatmulKernel* fast) {
  for (const FormatKernel& format : kFormats) fast[static_cast<int>(format.dtype)] = format.kernel;
}

}  // namespace coterie::kernels::avx512
