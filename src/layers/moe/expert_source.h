#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "ops/moe/expert_weights.h"
#include "ops/moe/plan.h"
#include "tensor/view.h"

namespace coterie::layers {

/// The experts of one plan of one layer, for as long as it lives. A source hands them out in groups, as they arrive,
/// and none at all where another machine computes them. In which groups and which order changes no bit.
class ExpertLease {
 public:
  virtual ~ExpertLease() = default;

  /// The next experts to compute: ids below E, of those that the plan sends tokens to, each once. May wait for them.
  /// Empty when all have been handed out. Throws what reading them throws.
  virtual std::span<const int32_t> next() = 0;
  /// [E] each: the weights of those that next() has handed out last; of others nothing is read.
  virtual std::span<const ops::ExpertInput> inputs() const = 0;
  virtual std::span<const ops::ExpertOutput> outputs() const = 0;

  /// Called once, after next() has returned none: waits for what experts gave that were computed elsewhere. out
  /// [slots, D]: down · h + bias of each slot, not yet weighted. Returns where the row of each slot lies, in `out` or
  /// in memory of the lease; nothing where all are in `out`.
  virtual std::span<const float* const> add_outputs(tensor::Matrix out) {
    (void)out;
    return {};
  }
};

/// What a layer is about to compute: its routed experts by `plan` for x [N, D]. It lives as long as the lease.
struct ExpertCall {
  int64_t layer = 0;
  const ops::RoutingPlan& plan;
  tensor::ConstMatrix x;
  // [E] each: the weights that are bound to the layer, which owns any set of its experts; empty where it does not own
  // one (models/owned_experts.h), but for the type of what is in the file.
  std::span<const ops::ExpertInput> inputs;
  std::span<const ops::ExpertOutput> outputs;
  bool gated = true;  // experts have gates, those too whose weights are not here
};

/// Where a model's routed experts come from when they are not all in memory and bound to the layers
/// (PassOptions::experts; null: they are, and nothing is asked). Called by the thread that runs the pass, one lease at
/// a time. Not for training, nor for a Soft MoE.
class ExpertSource {
 public:
  virtual ~ExpertSource() = default;

  virtual std::unique_ptr<ExpertLease> lease(const ExpertCall& call) = 0;
};

}  // namespace coterie::layers
