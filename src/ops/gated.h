#pragma once

#include <span>

#include "ops/matmul.h"

// Inside the room: grouped_gated_matmul for experts(), which goes back through it.
namespace coterie::ops {

/// Where gate · x and up · x [slots, F] are to be left; `gate` without data where experts have none, both without where
/// nobody wants them.
struct GatedHalves {
  Matrix gate, up;
};
void gated_matmul(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> experts,
                  const GateRule& rule, Matrix h, const GatedHalves& halves);

}  // namespace coterie::ops
