#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "layers/moe/router_loss.h"
#include "layers/moe/router_spec.h"
#include "layers/observer.h"

namespace coterie::layers {

/// Losses on routers, of each router by itself and summed over the routers. With p[t, e] a token's probabilities
/// (softmax of its logits without noise; for sigmoid scores each over their sum, as DeepSeek-V3 has it,
/// arXiv:2412.19437 eq. 18), T tokens, K experts a token, c[e] the assignments to an expert before a capacity took any:
///
///   balance, all choices:   coefficient * E / (K T²) * Σ_e c[e] Σ_t p[t, e]; 1 when even (Fedus et al. 2021, eq. 4)
///   balance, first choice:  the same with the first choices alone, K = 1 (GShard, Lepikhin et al. 2020)
///   importance:             coefficient * CV²(Σ_t weight[t, e]) (Shazeer et al. 2017, eq. 7); CV² = variance / mean²
///   importance and load:    the same + coefficient * CV²(Σ_t P[t, e]), where P is the probability that e is among the
///                           K best when its noise alone is drawn anew (appendix A). Needs noisy top-k
///   z:                      coefficient * mean_t logsumexp(logits[t])² (ST-MoE, Zoph et al. 2022, eq. 5)
///
/// c counts choices and has no gradient.
struct RouterLossSpec {
  enum class Balance { none, all_choices, first_choice, importance, importance_and_load };
  /// Over which tokens a balance loss is taken.
  enum class Scope {
    micro_batch,  // those of one step
    sequence,     // each sequence of a step by itself, averaged (DeepSeek-V3)
    batch,        // all that was listened to since clear(): a whole batch of several steps (Qiu et al., 2501.11873)
  };
  Balance balance = Balance::none;
  double balance_coefficient = 0.01;
  double z_coefficient = 0;
  RouterSpec::Score score = RouterSpec::Score::softmax;
  Scope scope = Scope::micro_batch;
};

/// Listens as an Observer and goes back as a RouterLoss.
///
/// The gradient of a step is that of its own tokens' losses, times the step's share of the batch (set_share); so it
/// needs no listening, and the steps of a batch add up to the batch for losses whose scope is the sequence. Of scope
/// batch it is that of all tokens listened to since clear(), and the share is not applied: to be exact over several
/// micro-batches, listen to all of them first (Decoder::loss without a tape) and then do the backward pass of each.
class RouterLosses : public Observer, public RouterLoss {
 public:
  explicit RouterLosses(const RouterLossSpec& spec) : spec_(spec) {}

  void routed(const Routed& router) override;
  void add_gradient(const Routed& router, const RoutedGradient& gradient) const override;
  void clear() { layers_.clear(); }
  /// The share of the steps that follow: their tokens / the batch's tokens; their sequences / the batch's for scope
  /// sequence.
  void set_share(double share) { share_ = share; }

  /// What was listened to since clear(), for scope batch, as numbers that may travel; add_sums() adds those of others,
  /// or of a part of the batch, in the order in which it is called.
  std::vector<double> sums() const;
  void add_sums(std::span<const double> sums);

  struct Values {
    double balance = 0, z = 0;  // with their coefficients
  };
  /// The losses since clear(): the mean over tokens (over sequences, for that scope).
  Values values(int64_t layer) const;
  /// Summed over the routers.
  Values values() const;

  /// Sums over a stretch of a router's tokens.
  struct Sums {
    std::vector<double> assignments, probability, importance, load;  // [E]
    double tokens = 0, counted = 0;                                  // counted: Σ assignments
    double squares = 0;                                              // Σ_t logsumexp²
  };

 private:
  struct Layer {
    Sums sums;                   // of scope batch
    double value = 0, size = 0;  // of the others: Σ size * balance loss, Σ size
    double squares = 0, tokens = 0;
  };
  const Layer& layer(int64_t at) const;
  void add_up(const Routed& router, int64_t begin, int64_t end, Sums& sums) const;
  double balance_of(const Sums& sums) const;
  void balance_back(const Sums& sums, double factor, const Routed& router, int64_t begin, int64_t end,
                    const RoutedGradient& gradient) const;

  RouterLossSpec spec_;
  double share_ = 1;
  std::map<int64_t, Layer> layers_;
};

/// Throws bad_input, with the reason, where a router would learn nothing from the loss of the model: weights that are 1
/// whatever the logits (K = 1 renormalised, or scored by a softmax over the one chosen), whatever else it is taught;
/// outputs that are summed, without a loss of balance. And for losses that this router cannot have (load without noise,
/// z without logits). Such a model still runs.
void check_trainable(const RouterSpec& spec, const RouterLossSpec& loss, std::string_view where);

}  // namespace coterie::layers
