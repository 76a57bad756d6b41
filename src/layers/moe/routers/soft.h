#pragma once

#include <string>
#include <vector>

#include "layers/batch.h"
#include "layers/moe/router_spec.h"
#include "layers/tensor_list.h"
#include "ops/moe/plan.h"
#include "ops/moe/soft_mixture.h"

namespace coterie::layers {

/// Soft MoE (Puigcerver et al. 2023, arXiv:2308.00951): no token is routed. Each expert has `slots`; what it reads in a
/// slot is a mixture of all tokens of a sequence, and what a token gets is a mixture of all slots' outputs, both by one
/// table of logits, scaled cosines of tokens and slot vectors. Every token has a say in every other's output: not
/// causal. There is no plan of tokens, so Observer::mixed is told in place of routed.
class SoftRouter {
 public:
  SoftRouter(const RouterSpec& spec, int64_t width);
  void visit(TensorVisitor& visitor, const std::string& path);

  struct Mixed {
    tensor::Matrix logits;  // [N, E slots]
    tensor::Matrix x;       // [B E slots, D] what experts read
    ops::RoutingPlan plan;  // each of its rows to its expert
    std::vector<ops::MixedRows> sequences;
  };
  /// x [N, D]. The matrices lie in the context's arena.
  Mixed to_slots(const Batch& batch, tensor::ConstMatrix x) const;
  /// outputs [B E slots, D] of the experts → y [N, D].
  void to_tokens(const Batch& batch, const Mixed& mixed, tensor::ConstMatrix outputs, tensor::Matrix y) const;

 private:
  RouterSpec spec_;
  int64_t width_;
  tensor::Weight slots_;        // [E slots, D]
  Vector scale_;                // [1]
  tensor::Buffer<float> unit_;  // [D]: 1 / √D, so that rms_norm gives vectors of length 1
};

}  // namespace coterie::layers
