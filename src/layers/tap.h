#pragma once

#include <cstdint>

#include "ops/plan.h"
#include "tensor/view.h"

namespace coterie::layers {

/// Observation points of the forward pass. A null Tap* costs a branch.
class Tap {
 public:
  virtual ~Tap() = default;
  /// After a router has decided. `logits` [N, E] as the router's matmul gave them.
  virtual void plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) {
    (void)layer, (void)plan, (void)logits;
  }
  /// After a block. `x` [N, D]: the residual stream as the next one gets it.
  virtual void block(int64_t layer, tensor::ConstMatrix x) { (void)layer, (void)x; }
};

}  // namespace coterie::layers
