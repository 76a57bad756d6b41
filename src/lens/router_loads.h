#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "layers/moe/router_spec.h"
#include "layers/observer.h"

namespace coterie::lens {

/// What the router of one layer did over some tokens. Of a Soft MoE an expert gets of each token the share that the
/// token gets of the expert's output, so that its assignments are not a whole numbers, and the probabilities are those
/// shares; there is no score, and nothing is dropped.
struct RouterLoad {
  std::vector<double> assignments;  // [E] tokens that each expert got
  std::vector<double> probability;  // [E] Σ over the tokens of its share of the scores
  double tokens = 0;
  double entropy = 0;   // Σ over the tokens, in nats
  double squares = 0;   // Σ logsumexp(logits)²
  double dropped = 0;   // assignments that found no expert with room
  double overflow = 0;  // assignments that went to a less preferred expert for want of room
  // For a Soft MoE: Σ over its slots of the entropy of what a slot reads, over the ln T of the sequence's T tokens, and
  // how many those were. Sequences of one token say nothing.
  double reading = 0, slots = 0;
  bool mixture = false;  // whether this is a Soft MoE

  /// Each expert's share of the assignments, times E: 1 is even. Zeros when there are none.
  std::vector<double> load() const;
  double load_cv() const;   // standard deviation of load() (its mean is 1)
  double max_load() const;  // the largest of load()
  int64_t dead() const;     // experts without a token
  /// E Σ_e f_e P_e with f the shares of the assignments and P of the scores: 1 at balance, E when all goes to one
  /// (Fedus et al. 2021, eq. 4).
  double balance() const;
  double mean_entropy() const;  // of a token, over ln E: 1 is undecided, 0 certain
  /// How evenly a slot of a Soft MoE reads: 1 is the mean of all tokens, 0 one of them.
  double mean_reading() const { return slots > 0 ? reading / slots : 0; }
};

/// Listens to routers and adds up, layer by layer. `score`: how the routers make scores of logits (softmax, or sigmoid,
/// whose shares are of the sum).
class RouterLoads : public layers::Observer {
 public:
  explicit RouterLoads(layers::RouterSpec::Score score) : score_(score) {}
  void plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) override;
  void mixed(const layers::Mixture& mixture) override;

  void clear() { layers_.clear(); }
  const std::map<int64_t, RouterLoad>& layers() const { return layers_; }
  /// What was added up, as numbers that may travel, and adds such numbers of another.
  std::vector<double> numbers() const;
  void add(std::span<const double> numbers);

 private:
  layers::RouterSpec::Score score_;
  std::map<int64_t, RouterLoad> layers_;
};

}  // namespace coterie::lens
