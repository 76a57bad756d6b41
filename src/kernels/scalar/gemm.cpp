#include "kernels/isa.h"

#include "kernels/simd/scalar.h"

namespace coterie::kernels::scalar {
#include "kernels/body/gemm.inl.h"
}  // namespace coterie::kernels::scalar
