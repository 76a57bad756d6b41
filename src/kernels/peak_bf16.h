#pragma once

#include <cstdint>

namespace coterie::kernels::avx512 {

/// What probe.cpp times: `rounds` of products of pairs of bf16 summed in f32, with nothing to wait for. Returns the
/// multiply-adds of a round. For CPUs that have AVX512_BF16, as gemm_kernels_bf16.
int64_t peak_bf16(int64_t rounds, float* sink) noexcept;

}  // namespace coterie::kernels::avx512
