#pragma once

#include <cstdint>
#include <span>

#include "layers/sequence_state.h"
#include "ops/plan.h"
#include "tensor/view.h"

namespace coterie::layers {

/// What a router has decided for a batch of N tokens, and what it saw.
struct Routed {
  int64_t layer = 0;
  const ops::RoutingPlan& plan;
  tensor::ConstMatrix logits;       // [N, E] as the router's map gave them, without noise
  std::span<const int32_t> chosen;  // [N, K] whom its rule chose, best first, before a capacity took any away
  std::span<const SequenceRows> sequences;
  // Noisy top-k: x W_noise, whose softplus is the noise's standard deviation, and the logits with the noise that was
  // drawn, which decided. [N, E] each; without rows where no noise was drawn.
  tensor::ConstMatrix noise = {}, noisy = {};
  bool of_mixer = false;  // of experts within the block's attention (AttentionSpec::experts), not of its FFN
};

/// What a Soft MoE has made of a batch instead of a choice (routers/soft.h).
struct Mixture {
  int64_t layer = 0, experts = 0;
  // [N, E slots], an expert's slots side by side. Their softmax over a sequence's tokens says what a slot reads, that
  // over the slots what a token gets of each slot's output.
  tensor::ConstMatrix logits;
  std::span<const SequenceRows> sequences;
};

/// Observation points of the forward pass. A null Tap* costs a branch.
class Tap {
 public:
  virtual ~Tap() = default;
  /// After the router of a block's FFN has decided. `logits` [N, E] as the router's map gave them, without noise.
  virtual void plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) {
    (void)layer, (void)plan, (void)logits;
  }
  /// The same with all there is to know, and of routers within attention too; what routers call.
  virtual void routed(const Routed& router) {
    if (!router.of_mixer) plan(router.layer, router.plan, router.logits);
  }
  /// In the place of `routed` where tokens are mixed: there is no plan and no choice.
  virtual void mixed(const Mixture& mixture) { (void)mixture; }
  /// What the FFN of a block reads, dense or sparse, and its router with it: [N, D], after the norm before it.
  virtual void ffn_input(int64_t layer, tensor::ConstMatrix x) { (void)layer, (void)x; }
  /// After a block. `x` [N, D]: the residual stream as the next one gets it.
  virtual void block(int64_t layer, tensor::ConstMatrix x) { (void)layer, (void)x; }
};

}  // namespace coterie::layers
