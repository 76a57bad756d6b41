#include "kernels/isa.h"

#include "kernels/simd/avx2.h"

COTERIE_BEGIN_AVX2
namespace coterie::kernels::avx2 {
#include "kernels/body/math.inl.h"

#include "kernels/body/attention_cache.inl.h"

#include "kernels/body/attention.inl.h"
}  // namespace coterie::kernels::avx2
COTERIE_END
