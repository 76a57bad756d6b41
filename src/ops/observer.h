#pragma once

#include <cstdint>
#include <span>

#include "ops/matmul.h"

namespace coterie::ops {

/// Sees what the matmuls of a pass read and what experts give (Context::observer): calibration counts with it. Called
/// by the thread that calls the op; what it is shown lives until it returns.
class Observer {
 public:
  virtual ~Observer() = default;
  /// Of y = x · Wᵀ: x [N, K], W [M, K].
  virtual void input(const Weight& weight, ConstMatrix x) = 0;
  /// The same of an expert: those rows of x [N, K] that are routed to it.
  virtual void input(const Weight& weight, ConstMatrix x, std::span<const int32_t> rows) = 0;
  /// Whether outputs() is to be called. It costs memory: what all slots' experts give is held at once.
  virtual bool wants_outputs() const { return false; }
  /// What each slot's expert gave, before it is multiplied by the slot's weight: out [slots, D].
  virtual void outputs(const RoutingPlan& plan, std::span<const ExpertOutput> experts, ConstMatrix out) {
    (void)plan, (void)experts, (void)out;
  }
};

}  // namespace coterie::ops
