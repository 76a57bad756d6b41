#include "kernels/isa.h"

#include "kernels/simd/scalar.h"

namespace coterie::kernels::scalar {
#include "kernels/body/math.inl.h"

#include "kernels/body/attention_cache.inl.h"

#include "kernels/body/attention.inl.h"
}  // namespace coterie::kernels::scalar
