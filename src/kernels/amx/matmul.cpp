#include "kernels/isa.h"
#include "kernels/matmul/rows.h"

namespace coterie::kernels::amx {

MatmulKernels matmul_kernels(MatmulKernels avx512) {
  add_matmul_blocks256(avx512.fast.data());
  add_matmul_grids(avx512.fast.data());
  avx512.peak_tiles = peak_tiles;
  return avx512;
}

}  // namespace coterie::kernels::amx
