#pragma once

#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/matmul.h"
#include "kernels/ssm.h"
#include "kernels/training.h"
#include "kernels/vector.h"

// What each instruction set supplies: src/kernels/<isa>/. table.cpp puts them together.
//
// A table is data, or is filled by a function that is compiled for the baseline instruction set: nothing that is
// compiled for an instruction set runs before table.cpp has asked the CPU whether it has it.
namespace coterie::kernels {

namespace scalar {
MatmulKernels matmul_kernels();
extern const VectorKernels vector_kernels;
extern const AttentionKernels attention_kernels;
extern const SsmKernels ssm_kernels;
extern const GemmKernels gemm_kernels;
extern const TrainingKernels training_kernels;
}  // namespace scalar

namespace avx2 {
MatmulKernels matmul_kernels();
extern const VectorKernels vector_kernels;
extern const AttentionKernels attention_kernels;
extern const SsmKernels ssm_kernels;
extern const GemmKernels gemm_kernels;
extern const TrainingKernels training_kernels;
}  // namespace avx2

namespace avx512 {
MatmulKernels matmul_kernels();
extern const VectorKernels vector_kernels;
extern const AttentionKernels attention_kernels;
extern const SsmKernels ssm_kernels;
extern const GemmKernels gemm_kernels;
extern const TrainingKernels training_kernels;
// For CPUs that have AVX512_BF16.
extern const GemmKernels gemm_kernels_bf16;
void add_matmul_bf16(MatmulKernels& kernels);
}  // namespace avx512

namespace amx {
/// Asks the system for the tiles, which it saves for no process that has not asked; whether it gave them.
bool permitted();
MatmulKernels matmul_kernels(MatmulKernels avx512);  // many tokens by tiles, all else by AVX-512
}  // namespace amx

}  // namespace coterie::kernels
