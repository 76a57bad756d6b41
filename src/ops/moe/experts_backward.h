#pragma once

#include <vector>

#include "ops/moe/experts.h"
#include "ops/tape.h"

// Inside the room: experts() on its tape.
namespace coterie::ops {

/// What the forward of experts() leaves for its backward.
struct KeptOfExperts {
  RoutingPlan plan;
  std::vector<ExpertInput> inputs;
  std::vector<ExpertOutput> outputs;
  GateRule rule;
  Precision precision;
  ConstMatrix x;              // [N, D] saved
  Matrix gate = {}, up = {};  // [slots, F] before the activation; gate is empty where experts have none
  // Where weights have adapters: x · Aᵀ and h · Aᵀ [slots, r], low_gate empty where gate and up have one A.
  Matrix low_gate = {}, low_up = {}, low_down = {};
  ConstMatrix x_at;  // where x lay
  Matrix y_at;
  float dropped = 0;
  const DropoutRow* rows = nullptr;
  uint64_t place = 0;

  bool gated() const { return gate.data != nullptr; }
};

/// Adds the gradients of x, of the experts' weights and of the slots' weights.
void experts_backward(const KeptOfExperts& kept, Reverse& back);

}  // namespace coterie::ops
