#pragma once

#include <span>

#include "layers/batch.h"
#include "layers/tensor_list.h"
#include "tensor/view.h"

namespace coterie::layers {

/// A projection and where its result goes.
struct Projection {
  const Linear& linear;
  tensor::Matrix y;  // [N, outputs]
};

/// y = x · Wᵀ + b of several projections of the same x [N, inputs], each with what is laid over it. Without overlays it
/// is ops::matmul_each; an overlay with B = 0, and a magnitude that is its norm, changes no bit.
void project_each(const Batch& batch, tensor::ConstMatrix x, std::span<const Projection> projections);
void project(const Batch& batch, tensor::ConstMatrix x, const Linear& linear, tensor::Matrix y);

/// What an overlay adds to y, which is x · Wᵀ + bias: for weights that are no Linear. The bias is null under a
/// magnitude and is added here.
void lay_over(const Batch& batch, tensor::ConstMatrix x, const Overlay& overlay, const float* bias, tensor::Matrix y);

}  // namespace coterie::layers
