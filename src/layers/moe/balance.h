#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "layers/moe/router_loss.h"
#include "layers/moe/router_spec.h"
#include "layers/tap.h"

namespace coterie::layers {

/// Losses on routers, of each router by itself and summed over the routers. With p[t, e] a token's probabilities
/// (softmax of its logits; for sigmoid scores each over their sum, as DeepSeek-V3 has it, arXiv:2412.19437 eq. 18), T
/// tokens, K experts a token, c[e] the assignments to an expert:
///
///   balance, all choices:   coefficient * E / (K T²) * Σ_e c[e] Σ_t p[t, e]; 1 when even (Fedus et al. 2021, eq. 4)
///   balance, first choice:  the same with the first choices alone, K = 1 (GShard, Lepikhin et al. 2020)
///   z:                      coefficient * mean_t logsumexp(logits[t])² (ST-MoE, Zoph et al. 2022, eq. 5)
///
/// c counts choices and has no gradient.
struct RouterLossSpec {
  enum class Balance { none, all_choices, first_choice };
  Balance balance = Balance::none;
  double balance_coefficient = 0.01;
  double z_coefficient = 0;
  RouterSpec::Score score = RouterSpec::Score::softmax;
};

/// Listens as a Tap and goes back as a RouterLoss. Its numbers are those of all it has listened to since clear(): of a
/// micro-batch when it is cleared before each; of a whole batch when it first listens to all of it and only then is
/// asked for gradients, whose T is then the batch's, so that micro-batches add up to it.
class RouterLosses : public Tap, public RouterLoss {
 public:
  explicit RouterLosses(const RouterLossSpec& spec) : spec_(spec) {}

  void plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) override;
  void add_gradient(const Routed& router, const RoutedGradient& gradient) const override;
  void clear() { layers_.clear(); }

  struct Values {
    double balance = 0, z = 0;  // with their coefficients
  };
  Values values(int64_t layer) const;
  /// Summed over the routers.
  Values values() const;

 private:
  struct Layer {
    std::vector<double> assignments, probability;  // [E]
    double tokens = 0, counted = 0;                // counted: Σ assignments
    double squares = 0;                            // Σ_t logsumexp²
  };
  const Layer& layer(int64_t at) const;

  RouterLossSpec spec_;
  std::map<int64_t, Layer> layers_;
};

}  // namespace coterie::layers
