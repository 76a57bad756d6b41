#pragma once

#include <string>

#include "layers/observer.h"
#include "models/parameters.h"

namespace coterie::train {

/// Listens to a forward pass and finds the first block whose output holds what is not a finite number.
class FirstNotFinite : public layers::Observer {
 public:
  void block(int64_t layer, tensor::ConstMatrix x) override;
  /// -1: none.
  int64_t layer() const { return layer_; }

 private:
  int64_t layer_ = -1;
};

/// The paths of the first weight that is not a finite number, and, in the order of the backward pass, of the first such
/// gradient; empty when all are.
std::string weight_not_finite(const models::Parameters& parameters);
std::string gradient_not_finite(const models::Parameters& parameters);

}  // namespace coterie::train
