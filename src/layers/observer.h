#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "layers/sequence_state.h"
#include "layers/weight_names.h"
#include "ops/moe/plan.h"
#include "tensor/view.h"

namespace coterie::layers {

/// What a router has decided for a batch of N tokens, and what it saw.
struct Routed {
  int64_t layer = 0;
  const ops::RoutingPlan& plan;
  tensor::ConstMatrix logits;       // [N, E] as the router's map gave them, without noise; hooks have changed theirs
  std::span<const int32_t> chosen;  // [N, K] whom its rule chose, best first, before a capacity took any away
  std::span<const SequenceRows> sequences;
  // Noisy top-k: x W_noise, whose softplus is the noise's standard deviation, and the logits with the noise that was
  // drawn, which decided. [N, E] each; without rows where no noise was drawn.
  tensor::ConstMatrix noise = {}, noisy = {};
  tensor::ConstMatrix input = {};  // [N, D] what the router read, with the jitter that was drawn
};

/// What a Soft MoE has made of a batch instead of a choice (routers/soft.h).
struct Mixture {
  int64_t layer = 0, experts = 0;
  // [N, E slots], an expert's slots side by side. Their softmax over a sequence's tokens says what a slot reads, that
  // over the slots what a token gets of each slot's output.
  tensor::ConstMatrix logits;
  std::span<const SequenceRows> sequences;
};

/// What a weight is about to be multiplied with.
struct Product {
  int64_t layer = 0;  // that is being computed; -1 for the head. A shared block's weights occur in several.
  const WeightName& weight;
  tensor::ConstMatrix x;  // [N, K]
  // Those rows of x that are multiplied: of an expert, the tokens that are routed to it. Empty: all of x.
  std::span<const int32_t> rows = {};

  int64_t count() const { return rows.empty() ? x.rows : std::ssize(rows); }
  const float* row(int64_t i) const { return x.row(rows.empty() ? i : rows[static_cast<size_t>(i)]); }
};

/// Looks on while a batch goes through the model: what PassOptions::observer is told. A null one costs a branch, and
/// no bit of a result depends on whether somebody observes. Called by the thread that runs the pass; what is shown
/// lives until the call returns. Observers joins several.
class Observer {
 public:
  virtual ~Observer() = default;

  /// After the router of a block's FFN has decided. `logits` [N, E] as the router's map gave them, without noise.
  virtual void plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) {
    (void)layer, (void)plan, (void)logits;
  }
  /// The same with all there is to know; what those routers call.
  virtual void routed(const Routed& router) { plan(router.layer, router.plan, router.logits); }
  /// The same of experts within a block's attention (AttentionSpec::experts).
  virtual void mixer_routed(const Routed& router) { (void)router; }
  /// In the place of `routed` where tokens are mixed: there is no plan and no choice.
  virtual void mixed(const Mixture& mixture) { (void)mixture; }

  /// What the FFN of a block reads, dense or sparse, and its router with it: [N, D], after the norm before it.
  virtual void ffn_input(int64_t layer, tensor::ConstMatrix x) { (void)layer, (void)x; }
  /// What a block's mixer and its FFN gave, after the norms behind them where there are any: [N, D], which is added to
  /// the residual stream (times the block's residual_multiplier).
  virtual void mixer_output(int64_t layer, tensor::ConstMatrix y) { (void)layer, (void)y; }
  virtual void ffn_output(int64_t layer, tensor::ConstMatrix y) { (void)layer, (void)y; }
  /// After a block. `x` [N, D]: the residual stream as the next one gets it.
  virtual void block(int64_t layer, tensor::ConstMatrix x) { (void)layer, (void)x; }
  /// The rows of logits that were asked for, [rows, V], as forward() returns them.
  virtual void logits(tensor::ConstMatrix logits) { (void)logits; }

  /// Whether product() is to be called: for every weight of the model that a matmul reads.
  virtual bool wants_products() const { return false; }
  virtual void product(const Product& product) { (void)product; }
  /// Whether expert_outputs() is to be called. It costs memory: what all slots' experts give is held at once.
  virtual bool wants_expert_outputs() const { return false; }
  /// What each slot's routed expert gave, before it is multiplied by the slot's weight and summed: out [slots, D].
  virtual void expert_outputs(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix out) {
    (void)layer, (void)plan, (void)out;
  }
};

/// Several, told one after the other.
class Observers final : public Observer {
 public:
  Observers() = default;
  /// Those that are null are left out.
  Observers(std::initializer_list<Observer*> all) {
    for (Observer* one : all) add(one);
  }
  void add(Observer* one) {
    if (one) all_.push_back(one);
  }
  /// What a pass is to be given: null when there is nobody, the one itself when there is one.
  Observer* get() { return all_.empty() ? nullptr : all_.size() == 1 ? all_.front() : this; }

  void routed(const Routed& router) override;
  void mixer_routed(const Routed& router) override;
  void mixed(const Mixture& mixture) override;
  void ffn_input(int64_t layer, tensor::ConstMatrix x) override;
  void mixer_output(int64_t layer, tensor::ConstMatrix y) override;
  void ffn_output(int64_t layer, tensor::ConstMatrix y) override;
  void block(int64_t layer, tensor::ConstMatrix x) override;
  void logits(tensor::ConstMatrix logits) override;
  bool wants_products() const override;
  void product(const Product& product) override;
  bool wants_expert_outputs() const override;
  void expert_outputs(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix out) override;

 private:
  std::vector<Observer*> all_;
};

}  // namespace coterie::layers
