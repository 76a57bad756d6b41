#pragma once

#include <span>

#include "ops/moe/expert_weights.h"
#include "ops/moe/formed_rows.h"
#include "ops/moe/plan.h"

namespace coterie::ops {

/// h[s] = act(gate_e · x[t]) * (up_e · x[t]) for each slot s = (token t, expert e) of the plan. x [N, D], h [slots, F].
/// Each expert's weights are read once for the batch; the activation is applied while the outputs are in cache.
/// Refuses a tape: experts() has a backward.
void grouped_gated_matmul(Context& context, ConstMatrix x, const RoutingPlan& plan,
                          std::span<const ExpertInput> experts, const GateRule& rule, Matrix h);

// Inside the room, for experts(), whose backward reads what the halves were before the activation.

/// Where gate · x and up · x [slots, F] are to be left; `gate` without data where experts have none, both without where
/// nobody wants them.
struct GatedHalves {
  Matrix gate, up;
  Matrix low_gate, low_up;  // x · Aᵀ [slots, r] of their LoRAs; low_up alone where both have one A
};
void gated_matmul(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> experts,
                  const GateRule& rule, Matrix h, const GatedHalves& halves);
/// The same of rows that are in a kernel's form already, of experts without a LoRA on their first halves.
void gated_matmul(Context& context, const FormedRows& x, const RoutingPlan& plan, std::span<const ExpertInput> experts,
                  const GateRule& rule, Matrix h);

/// Whether gate and up of every expert that has a LoRA on gate share its A and its scale.
bool share_a(const RoutingPlan& plan, std::span<const ExpertInput> experts);

}  // namespace coterie::ops
