#pragma once

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/vector.h"

// What each instruction set supplies: src/kernels/<isa>/. table.cpp puts them together.
namespace coterie::kernels {

namespace scalar {
MatmulKernels matmul_kernels();
VectorKernels vector_kernels();
AttentionKernels attention_kernels();
}  // namespace scalar

namespace avx2 {
MatmulKernels matmul_kernels();
VectorKernels vector_kernels();
AttentionKernels attention_kernels();
}  // namespace avx2

namespace avx512 {
MatmulKernels matmul_kernels();
void add_matmul_bf16(MatmulKernels& kernels);  // for CPUs that have AVX512_BF16
VectorKernels vector_kernels();
AttentionKernels attention_kernels();
}  // namespace avx512

namespace amx {
struct Features {
  bool tiles = false, int8 = false;
};
Features features();  // of this CPU
/// Asks the system for the tiles, which it saves for no process that has not asked; whether it gave them.
bool permitted();
MatmulKernels matmul_kernels(MatmulKernels avx512);  // many tokens by tiles, all else by AVX-512
}  // namespace amx

}  // namespace coterie::kernels
