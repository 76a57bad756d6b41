#include "kernels/isa.h"

#include "kernels/simd/avx2.h"

COTERIE_BEGIN_AVX2
namespace coterie::kernels::avx2 {
#include "kernels/body/gemm.inl.h"
}  // namespace coterie::kernels::avx2
COTERIE_END
