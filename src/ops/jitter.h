#pragma once

#include <span>

#include "ops/dropout.h"

namespace coterie::ops {

/// y = x * uniform draws from [1 - amount, 1 + amount), each element for itself (Switch Transformers, arXiv:2101.03961,
/// appendix C: input jitter). x, y [N, D], y not x; amount in [0, 1); rows and place as for dropout.
void jitter(Context& context, tensor::ConstMatrix x, float amount, std::span<const DropoutRow> rows, uint64_t place,
            tensor::Matrix y);

}  // namespace coterie::ops
