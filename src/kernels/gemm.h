#pragma once

#include <cstdint>

namespace coterie::kernels {

/// A product of two matrices of f32, on one thread:
///   c[i, j] = (c[i, j] +) Σ_k a(i, k) * b[k, j]
/// for gradients: both operands are activations or weights as they lie in memory, and c is added to. Every output is
/// the sum, in order, of the sums of kGemmDepth products each, fma(a, b, sum) from 0: the same bits for any tile, on
/// every instruction set, and those of the forward matmul.
struct GemmTask {
  int64_t rows = 0, cols = 0, depth = 0;
  // a(i, k): row i of a matrix, or with a_by_depth row k. Where there is an index, memory row r is a + index[r] *
  // a_stride.
  const float* a = nullptr;
  int64_t a_stride = 0;
  const int32_t* a_index = nullptr;
  bool a_by_depth = false;
  const float* b = nullptr;  // b[k, j]: row k, or b_index[k]
  int64_t b_stride = 0;
  const int32_t* b_index = nullptr;
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = true;    // else what c held is overwritten
  float* scratch = nullptr;  // scratch_floats, aligned to a cache line, of this thread alone
};

inline constexpr int64_t kGemmDepth = 256;

struct GemmKernels {
  int64_t row_tile = 1, col_tile = 1;  // cut at multiples of these
  int64_t scratch_floats = 0;
  void (*run)(const GemmTask& task) noexcept = nullptr;
};

}  // namespace coterie::kernels
