#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx2.h"

COTERIE_BEGIN_AVX2

namespace coterie::kernels::avx2 {

namespace {
#include "kernels/avx2/matmul_lanes.inl.h"  // first: the vocabulary of the others

#include "kernels/avx2/matmul_rows256.inl.h"
#include "kernels/avx2/matmul_stream256.inl.h"
#include "kernels/avx2/matmul_words.inl.h"
#include "kernels/matmul/block_kernel.inl.h"
#include "kernels/matmul/blocks256.inl.h"
}  // namespace

bool stream_q4_k(const MatmulTask& task) noexcept { return run_stream256<StreamK4<Q4K>>(task); }
bool stream_q5_k(const MatmulTask& task) noexcept { return run_stream256<StreamK4<Q5K>>(task); }
bool stream_q6_k(const MatmulTask& task) noexcept { return run_stream256<StreamQ6K>(task); }

namespace {
constexpr FormatKernel kFormats[] = {
    {tensor::DType::q2_k, block_kernel<Blocks256<Q2K>>()},
    {tensor::DType::q3_k, block_kernel<Blocks256<Q3K>>()},
    {tensor::DType::q4_k, block_kernel<RowWise256<Q4K, RowDotsQ4K>, stream_q4_k>()},
    {tensor::DType::q5_k, block_kernel<RowWise256<Q5K, RowDotsQ5K>, stream_q5_k>()},
    {tensor::DType::q6_k, block_kernel<RowWise256<Q6K, RowDotsQ6K>, stream_q6_k>()},
    {tensor::DType::iq4_xs,
     block_kernel<Words<IQ4XS, RowWise256<IQ4XS, RowDotsIQ4XS>, ActivationBlock256, Header256<8>>>()},
};
}  // namespace

}  // namespace coterie::kernels::avx2

COTERIE_END

namespace coterie::kernels::avx2 {

void add_matmul_blocks256(MatmulKernel* fast) {
  for (const FormatKernel& format : kFormats) fast[static_cast<int>(format.dtype)] = format.kernel;
}

}  // namespace coterie::kernels::avx2
