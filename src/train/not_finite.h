#pragma once

#include <string>

#include "layers/tap.h"
#include "models/parameters.h"

namespace coterie::train {

/// Listens to a forward pass and finds the first block whose output holds what is no finite number.
class FirstNotFinite : public layers::Tap {
 public:
  void block(int64_t layer, tensor::ConstMatrix x) override;
  /// -1: none.
  int64_t layer() const { return layer_; }

 private:
  int64_t layer_ = -1;
};

/// Where weights, or else their gradients, first cease to be finite, in words for a message ("the gradient of
/// blocks.3.attention.q"); empty when all of them are.
std::string not_finite(const models::Parameters& parameters);

}  // namespace coterie::train
