#pragma once

#include <cstdint>

#include "base/function_ref.h"
#include "models/decoder.h"

namespace coterie::models {

/// In the place of an expert's weight that is not here: its type in the file, and no bytes.
inline tensor::Weight weight_elsewhere(tensor::DType dtype) {
  tensor::Weight weight;
  weight.dtype = dtype;
  return weight;
}

/// Takes the routed experts away from each layer that `owns` does not name: their weights are no longer bound, and
/// nothing of them is read. A pass of such a model needs an ExpertSource (PassOptions::experts) for the others; a rank
/// of several owns a part, and a copy of an expert may be owned by more than one.
void own_experts(Decoder& decoder, base::FunctionRef<bool(int64_t layer, int64_t expert)> owns);

}  // namespace coterie::models
