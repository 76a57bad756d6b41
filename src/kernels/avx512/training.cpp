#include "kernels/isa.h"

#include "kernels/simd/avx512.h"

COTERIE_BEGIN_AVX512
namespace coterie::kernels::avx512 {
#include "kernels/body/math.inl.h"

#include "kernels/body/training.inl.h"
}  // namespace coterie::kernels::avx512
COTERIE_END
