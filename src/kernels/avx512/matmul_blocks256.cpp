#include <immintrin.h>

#include "kernels/avx512/matmul_halves.h"
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

#include "kernels/avx512/matmul_rows256.inl.h"
#include "kernels/matmul/block_kernel.inl.h"
#include "kernels/matmul/blocks256.inl.h"
}  // namespace

namespace {
/// One token by repacked rows goes by halves of panels, all else as run_blocks has it.
template <class Blocks, OneToken one_token, void (*halves)(const MatmulTask&) noexcept>
void run_halves_or_blocks(const MatmulTask& task) noexcept {
  if (task.repacked && task.tokens == 1) return halves(task);
  run_blocks<Blocks, one_token>(task);
}
template <class Blocks, OneToken one_token, void (*halves)(const MatmulTask&) noexcept>
constexpr MatmulKernel halves_kernel() {
  MatmulKernel kernel = block_kernel<Blocks, one_token>();
  kernel.run = run_halves_or_blocks<Blocks, one_token, halves>;
  return kernel;
}

constexpr FormatKernel kFormats[] = {
    {tensor::DType::q2_k, block_kernel<Blocks256<Q2K>>()},
    {tensor::DType::q3_k, block_kernel<Blocks256<Q3K>>()},
    {tensor::DType::q4_k, halves_kernel<RowWise256<Q4K, RowDotsK4<Q4K>>, avx2::stream_q4_k, halves_q4_k>()},
    {tensor::DType::q5_k, halves_kernel<RowWise256<Q5K, RowDotsK4<Q5K>>, avx2::stream_q5_k, halves_q5_k>()},
    {tensor::DType::q6_k, halves_kernel<RowWise256<Q6K, RowDotsQ6K>, avx2::stream_q6_k, halves_q6_k>()},
    {tensor::DType::iq4_xs, block_kernel<Blocks256<IQ4XS>>()},
};
}  // namespace

}  // namespace coterie::kernels::avx512

COTERIE_END

namespace coterie::kernels::avx512 {

void add_matmul_blocks256(MatmulKernel* fast) {
  for (const FormatKernel& format : kFormats) fast[static_cast<int>(format.dtype)] = format.kernel;
}

}  // namespace coterie::kernels::avx512
