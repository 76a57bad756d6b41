#pragma once

#include <vector>

#include "layers/batch.h"
#include "ops/attention.h"

namespace coterie::layers {

/// The sequences of a batch with their cache blocks of a layer. `dtype`: what the caches hold, which must be one for
/// all.
std::vector<ops::Segment> segments(const Batch& batch, int64_t layer, tensor::DType& dtype);

}  // namespace coterie::layers
