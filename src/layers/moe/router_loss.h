#pragma once

#include <cstdint>

#include "layers/observer.h"
#include "tensor/view.h"

namespace coterie::layers {

/// Where a loss on a router adds its gradient: by what decided, all in all.
struct RoutedGradient {
  tensor::Matrix logits;                  // [N, E], by Routed::logits alone
  float* weights = nullptr;               // [slots], by the plan's weights
  tensor::Matrix noise = {}, noisy = {};  // [N, E], where there are such
};

/// A loss on what routers do (balance, z-loss). It looks on in the forward pass as an Observer, since most need a whole
/// batch, and is asked in the backward pass for its gradient, router by router: so it is attached wherever it is given
/// to the batch, and it is computed from the numbers of the whole scope.
class RouterLoss {
 public:
  virtual ~RouterLoss() = default;
  /// Adds the gradient by what this router saw and decided to `gradient`.
  virtual void add_gradient(const Routed& router, const RoutedGradient& gradient) const = 0;
  /// The same of experts within a block's attention (Observer::mixer_routed).
  virtual void add_mixer_gradient(const Routed& router, const RoutedGradient& gradient) const {
    (void)router, (void)gradient;
  }
};

}  // namespace coterie::layers
