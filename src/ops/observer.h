#pragma once

#include <cstdint>
#include <span>

#include "ops/moe/expert_weights.h"
#include "ops/moe/plan.h"

namespace coterie::ops {

/// Is shown by ops what weights are multiplied with and what experts give (Context::observer). The decoder is one, for
/// as long as somebody observes a pass, and hands it on by the weights' names (layers/observer.h). Called by the thread
/// that calls the op; what it is shown lives until it returns.
class WeightObserver {
 public:
  virtual ~WeightObserver() = default;
  /// The input of y = x · Wᵀ: x [N, K], W [M, K].
  virtual void input(const Weight& weight, ConstMatrix x) = 0;
  /// The same of an expert: those rows of x [N, K] that are routed to it.
  virtual void input(const Weight& weight, ConstMatrix x, std::span<const int32_t> rows) = 0;
  /// Whether outputs() is to be called for these. It costs memory: what all slots' experts give is held at once.
  virtual bool wants_outputs(std::span<const ExpertOutput> experts) const = 0;
  /// What each slot's expert gave, before it is multiplied by the slot's weight: out [slots, D].
  virtual void outputs(const RoutingPlan& plan, std::span<const ExpertOutput> experts, ConstMatrix out) = 0;
};

}  // namespace coterie::ops
