#pragma once

#include <span>
#include <string>
#include <string_view>

#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/matmul.h"
#include "kernels/ssm.h"
#include "kernels/training.h"
#include "kernels/vector.h"

namespace coterie::kernels {

/// Everything a CPU must supply, chosen once. The scalar table is complete and is the oracle of the others.
struct KernelTable {
  std::string_view isa;  // "scalar", "avx2", "avx512", "amx" (avx512 with tiles for many tokens)
  MatmulKernels matmul;
  VectorKernels vector;
  AttentionKernels attention;
  SsmKernels ssm;
  GemmKernels gemm;
  TrainingKernels training;
  GemmKernels gemm_bf16 = {};  // without `run` where the CPU has no products of bf16
};

/// The tables in this build, best first, each with why it can or cannot run here.
struct Candidate {
  const KernelTable* table;
  bool usable;
  std::string reason;  // "needs avx512vnni, which this CPU lacks"; empty when usable
};
std::span<const Candidate> candidates();

/// The first usable one, or the one that COTERIE_ISA names. Throws bad_input when that is unknown and unsupported when
/// this CPU lacks it.
const KernelTable& select();
/// By name, as COTERIE_ISA does it.
const KernelTable& by_name(std::string_view isa);

}  // namespace coterie::kernels
