#pragma once

#include <cstdint>

#include "ops/plan.h"
#include "tensor/view.h"

namespace coterie::layers {

/// A loss on what routers do (balance, z-loss). It listens on the way forward as a Tap, since most look at a whole
/// batch, and is asked on the way back for its gradient, router by router: so it is attached wherever it is given to
/// the batch, and it is computed from the numbers of the whole scope.
class RouterLoss {
 public:
  virtual ~RouterLoss() = default;
  /// dlogits [N, E] += the gradient by this router's logits [N, E]; `plan` is what was made of them.
  virtual void add_gradient(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits,
                            tensor::Matrix dlogits) const = 0;
};

}  // namespace coterie::layers
