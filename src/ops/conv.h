#pragma once

#include <cstdint>
#include <span>

#include "kernels/activation.h"
#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::ops {

/// The rows of one sequence in a batch and the state that its tokens before them have left: read, and then written for
/// those that follow.
struct Recurrence {
  int64_t first_row = 0, rows = 0;
  float* state = nullptr;
};

/// y[t] = activation(bias + Σ_k taps[k] * x[t - width + 1 + k]), each channel for itself, along each sequence: the
/// short convolution before a selective scan (Gu & Dao 2023, section 3.4). x, y [N, C], not the same; taps [width, C];
/// bias [C] or null. A sequence's state is [width - 1, C]: its last inputs, oldest first; zeros before the first token.
/// The bits do not depend on how a sequence is cut.
struct Convolution {
  int64_t width = 0;
  const float* taps = nullptr;
  const float* bias = nullptr;
  kernels::Activation activation = kernels::Activation::silu;
};
void causal_conv1d(Context& context, const Convolution& convolution, tensor::ConstMatrix x,
                   std::span<const Recurrence> sequences, tensor::Matrix y);

}  // namespace coterie::ops
