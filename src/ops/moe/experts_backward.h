#pragma once

#include <memory>
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
  ConstMatrix x = {};         // [N, D] saved
  Matrix gate = {}, up = {};  // [slots, F] before the activation; gate is empty where experts have none
  // Where weights have adapters: x · Aᵀ and h · Aᵀ [slots, r], low_gate empty where gate and up have one A.
  Matrix low_gate = {}, low_up = {}, low_down = {};
  ConstMatrix x_at = {};  // where x lay
  Matrix y_at = {};
  float dropped = 0;
  const DropoutRow* rows = nullptr;
  uint64_t place = 0;

  bool gated() const { return gate.data != nullptr; }
};

/// The backward of the experts of a plan, cut in two, so that who asked for the first half need not wait for the
/// second.
class ExpertsBackward {
 public:
  /// dy [N, D]: the gradient of what the plan's tokens got. Both must outlive it.
  ExpertsBackward(const KeptOfExperts& kept, Reverse& back, ConstMatrix dy);
  ~ExpertsBackward();
  /// weight_gradient[s] += that of each slot's weight (null: nobody wants it); parts [slots, D] = each slot's share of
  /// its token's dx. First of all, once.
  void rows(float* weight_gradient, Matrix parts);
  /// Adds the gradients of the experts' weights, their biases and adapters.
  void weights();

 private:
  class Work;
  std::unique_ptr<Work> work_;
};

/// dx of each token += the parts of its slots, in the order in which combine adds them.
void add_parts(Context& context, const RoutingPlan& plan, ConstMatrix parts, Matrix dx);

/// Adds the gradients of x, of the experts' weights and of the slots' weights.
void experts_backward(const KeptOfExperts& kept, Reverse& back);

}  // namespace coterie::ops
