#pragma once

#include "kernels/gemm.h"
#include "kernels/matmul.h"

// Products of bf16 by tiles, for CPUs that have AMX_BF16 and AVX512_BF16.
namespace coterie::kernels::amx {

extern const GemmKernels gemm_kernels_bf16;
void add_matmul_bf16(MatmulKernels& kernels);

}  // namespace coterie::kernels::amx
