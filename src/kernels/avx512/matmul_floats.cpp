#include <immintrin.h>

#include "kernels/matmul.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/target.h"
#include "quant/codec.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

COTERIE_BEGIN_AVX512

namespace coterie::kernels::avx512 {

namespace {
#include "kernels/avx512/matmul_lanes.inl.h"

#include "kernels/matmul/floats.inl.h"
}  // namespace

void add_matmul_floats(MatmulKernel* exact, MatmulKernel* fast) {
  using tensor::DType;
  for (int i = 0; i < tensor::kDTypes; ++i) {
    const DType dtype = static_cast<DType>(i);
    if (tensor::is_block(dtype)) exact[i] = {run_decoded, floats_scratch, ActivationForm::floats};
  }
  MatmulKernel* const tables[] = {exact, fast};
  for (MatmulKernel* kernels : tables) {
    kernels[static_cast<int>(DType::f32)] = {run_floats<ReadF32>, floats_scratch, ActivationForm::floats};
    kernels[static_cast<int>(DType::f16)] = {run_floats<ReadF16>, floats_scratch, ActivationForm::floats};
    kernels[static_cast<int>(DType::bf16)] = {run_floats<ReadBF16>, floats_scratch, ActivationForm::floats};
  }
}

}  // namespace coterie::kernels::avx512

COTERIE_END
