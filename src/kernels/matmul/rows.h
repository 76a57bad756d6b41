#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matmul.h"
#include "kernels/simd/target.h"
#include "quant/blocks.h"

namespace coterie::kernels {

/// Some rows of weights (as many as an instruction set has 32-bit lanes), each `stride` bytes after the one before.
struct Rows {
  const std::byte* data;
  int64_t stride;
};

/// The same rows repacked (MatmulKernels::repack).
struct Repacked {
  const std::byte* data;
};

/// Bytes to fetch into the cache while others are worked on: `lines` of 64 at each step, until `end`.
struct Ahead {
  const std::byte* at;
  const std::byte* end;
  int64_t lines;
  bool near = false;  // into the first cache, else into the second
};
COTERIE_INLINE void fetch(Ahead& ahead, int64_t lines) {
  for (int64_t i = 0; i < lines && ahead.at < ahead.end; ++i, ahead.at += 64) {
    if (ahead.near)
      __builtin_prefetch(ahead.at, 0, 3);
    else
      __builtin_prefetch(ahead.at, 0, 2);
  }
}
COTERIE_INLINE void fetch(Ahead& ahead) { fetch(ahead, ahead.lines); }

// Taken here, outside the regions of an instruction set, where no std:: function may be called.
inline constexpr const int8_t* kIq4Codes = quant::kIq4Values.data();
inline constexpr const int8_t* kMxfp4Codes = quant::kMxfp4Values.data();

/// A format and what multiplies it: constants of the file that holds the kernels.
struct FormatKernel {
  tensor::DType dtype;
  MatmulKernel kernel;
};

/// Each fills in its formats, by dtype, and is a file of the instruction set's folder. Compiled for the baseline.
namespace avx2 {
void add_matmul_blocks32(MatmulKernel* fast);
void add_matmul_blocks256(MatmulKernel* fast);
void add_matmul_grids(MatmulKernel* fast);
void add_matmul_floats(MatmulKernel* exact, MatmulKernel* fast);
void add_matmul_scaled(MatmulKernel* exact, MatmulKernel* fast);
/// One token by rows that follow each other without a gap, in the order of memory; false, and nothing done, where they
/// do not. AVX-512 uses them too: its own way of reading a row is quicker in the cache and slower from memory.
bool stream_q4_k(const MatmulTask&) noexcept;
bool stream_q5_k(const MatmulTask&) noexcept;
bool stream_q6_k(const MatmulTask&) noexcept;
}  // namespace avx2
namespace avx512 {
void add_matmul_blocks32(MatmulKernel* fast);
void add_matmul_blocks256(MatmulKernel* fast);
void add_matmul_grids(MatmulKernel* fast);
void add_matmul_floats(MatmulKernel* exact, MatmulKernel* fast);
void add_matmul_scaled(MatmulKernel* exact, MatmulKernel* fast);
}  // namespace avx512
namespace amx {  // over those of AVX-512, which they call for few tokens
int64_t peak_tiles(int64_t rounds, int32_t* sink) noexcept;
void add_matmul_blocks256(MatmulKernel* fast);
void add_matmul_grids(MatmulKernel* fast);
}  // namespace amx

}  // namespace coterie::kernels
