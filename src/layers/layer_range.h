#pragma once

#include <cstdint>

#include "tensor/view.h"

namespace coterie::layers {

/// The layers of a pass that are computed here, where other ranks compute the others (PassOptions::layers).
struct LayerRange {
  int64_t first = 0, end = INT64_MAX;
  // The residual stream of the pass's rows [N, D]: what the layer before `first` has left, where there is one, and
  // room for what the last of these leaves. Without data: the pass goes on to the logits; else its result has no rows.
  tensor::ConstMatrix entering = {};
  tensor::Matrix leaving = {};
};

}  // namespace coterie::layers
