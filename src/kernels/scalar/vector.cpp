#include "kernels/isa.h"

#include "kernels/simd/scalar.h"

namespace coterie::kernels::scalar {
#include "kernels/body/math.inl.h"

#include "kernels/body/vector.inl.h"
}  // namespace coterie::kernels::scalar
