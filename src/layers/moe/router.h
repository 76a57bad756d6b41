#pragma once

#include <cstdint>
#include <string>

#include "layers/batch.h"
#include "layers/moe/router_spec.h"
#include "layers/tensor_list.h"
#include "ops/moe/plan.h"
#include "tensor/view.h"

namespace coterie::layers {

/// Decides which experts a token goes to.
class Router {
 public:
  /// `of_mixer`: of experts within attention, not of a block's FFN; those who listen are told.
  Router(const RouterSpec& spec, int64_t width, bool of_mixer = false)
      : spec_(spec), width_(width), of_mixer_(of_mixer) {}

  /// x [N, D]. Evaluated with f32 weights and f32 products, whatever the batch's precision.
  ops::RoutingPlan forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x) const;
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  /// x [N, D] → logits [N, E].
  void map(const Batch& batch, ops::Context& context, tensor::ConstMatrix x, tensor::Matrix logits) const;

  RouterSpec spec_;
  int64_t width_;
  bool of_mixer_;
  tensor::Weight weight_, hidden_, noise_;  // [E, D]; or [E, H] behind a hidden layer [H, D]; [E, D] of the noise
  Lora lora_;                               // over weight_, where there is no hidden layer
  Vector bias_, hidden_bias_, noise_bias_, selection_bias_;  // [E], [H], [E], [E], or empty
  Vector norm_, expert_scale_;                               // [D], [E], or empty
};

}  // namespace coterie::layers
