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

/// y = x · Wᵀ + b of several projections of the same x [N, inputs], each with its LoRA. Without adapters it
/// is ops::matmul_each; a LoRA with B = 0, and a magnitude that is its norm, changes no bit.
void project_each(const Batch& batch, tensor::ConstMatrix x, std::span<const Projection> projections);
void project(const Batch& batch, tensor::ConstMatrix x, const Linear& linear, tensor::Matrix y);

/// What a LoRA adds to y, which is x · Wᵀ + bias: for weights that are not Linear. The bias is null under a
/// magnitude and is added here.
void add_lora(const Batch& batch, tensor::ConstMatrix x, const Lora& lora, const float* bias, tensor::Matrix y);

}  // namespace coterie::layers
