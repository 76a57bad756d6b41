#pragma once

#include <span>

#include "ops/matmul.h"

// Inside the room: the grouped matmuls for experts(), which goes back through them.
namespace coterie::ops {

/// Where gate · x and up · x [slots, F] are to be left; `gate` without data where experts have none, both without where
/// nobody wants them.
struct GatedHalves {
  Matrix gate, up;
  Matrix low_gate, low_up;  // x · Aᵀ [slots, r] of what is laid over them; low_up alone where both have one A
};
void gated_matmul(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> experts,
                  const GateRule& rule, Matrix h, const GatedHalves& halves);
/// grouped_down_combine, with h · Aᵀ [slots, r] left in `low` where it has data.
void down_combine(Context& context, ConstMatrix h, const RoutingPlan& plan, std::span<const ExpertOutput> experts,
                  Matrix y, Matrix low);

/// Whether gate and up of every expert that has an overlay on gate share its A and its scale.
bool one_a(const RoutingPlan& plan, std::span<const ExpertInput> experts);

}  // namespace coterie::ops
