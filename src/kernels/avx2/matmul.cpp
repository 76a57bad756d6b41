#include <immintrin.h>

#include "kernels/isa.h"
#include "kernels/matmul/rows.h"
#include "kernels/simd/avx2.h"

COTERIE_BEGIN_AVX2

namespace coterie::kernels::avx2 {

namespace {
#include "kernels/avx2/matmul_lanes.inl.h"

#include "kernels/matmul/activations.inl.h"

#include "kernels/matmul/limits.inl.h"

#include "kernels/matmul/repack.inl.h"
}  // namespace

}  // namespace coterie::kernels::avx2

COTERIE_END

namespace coterie::kernels::avx2 {

MatmulKernels matmul_kernels() {
  MatmulKernels kernels;
  kernels.panel_rows = kWidth;
  kernels.quantise32 = quantise32;
  kernels.quantise256 = quantise256;
  kernels.repack = repack;
  kernels.peak_f32 = peak_f32;
  kernels.peak_int8 = peak_int8;
  kernels.read = read;
  add_matmul_floats(kernels.exact.data(), kernels.fast.data());
  add_matmul_scaled(kernels.exact.data(), kernels.fast.data());
  add_matmul_blocks32(kernels.fast.data());
  add_matmul_blocks256(kernels.fast.data());
  add_matmul_grids(kernels.fast.data());
  return kernels;
}

}  // namespace coterie::kernels::avx2
