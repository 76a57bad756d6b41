#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "layers/moe/router_loss.h"
#include "layers/observer.h"
#include "tensor/view.h"

namespace coterie::models {

/// Mean next-token cross-entropy, in f64: -mean over sequences b and t < T-1 of log softmax(logits[b,t])[ids[b,t+1]].
/// Sequences of one length T, as the reference takes them. logits [B*T, V], ids [B*T].
class CrossEntropy {
 public:
  /// One sequence: logits [T, V] f32, ids [T]. The T-1 losses go to the end of `each`, too, where it is given.
  void add(tensor::ConstMatrix logits, std::span<const int32_t> ids, std::vector<double>* each = nullptr);
  double mean() const { return count_ ? sum_ / static_cast<double>(count_) : 0; }
  /// The standard error of the mean, taking the predictions as independent: sqrt(variance / count); 0 for fewer than
  /// two.
  double standard_error() const;
  int64_t predictions() const { return count_; }

 private:
  double sum_ = 0, squares_ = 0;
  int64_t count_ = 0;
};

/// What transformers adds to the loss of a MoE with output_router_logits (load_balancing_loss_func of Mixtral, OLMoE,
/// Qwen2-MoE, Qwen3-MoE; Fedus et al. 2021, eq. 4-6): E * Σ_e f_e P_e, where f_e is the number of assignments to expert
/// e per token and P_e the mean softmax probability of e, both over all tokens of all routers. Balanced, it is K.
/// Listens to the routers: pass it as the observer of every forward.
/// Under a tape pass it as router_loss too: its gradient, times `weight`, is then that of all the routers that it has
/// listened to since it was made.
class LoadBalance : public layers::Observer, public layers::RouterLoss {
 public:
  explicit LoadBalance(double weight = 1) : weight_(weight) {}
  void plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) override;
  void mixer_routed(const layers::Routed& router) override { plan(router.layer, router.plan, router.logits); }
  /// Without the weight.
  double loss() const;
  void add_gradient(const layers::Routed& router, const layers::RoutedGradient& gradient) const override;
  void add_mixer_gradient(const layers::Routed& router, const layers::RoutedGradient& gradient) const override {
    add_gradient(router, gradient);
  }

 private:
  std::vector<double> assignments_, probability_;  // [E]
  double rows_ = 0, weight_;
};

}  // namespace coterie::models
