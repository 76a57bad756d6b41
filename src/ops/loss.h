#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::ops {

/// How hidden states become logits: (hidden · Wᵀ + bias) * scale, then cap * tanh(logits / cap) where there is a cap.
struct HeadShape {
  tensor::Weight weight;  // [V, D]
  float scale = 1;
  std::optional<float> softcap = {};
  const float* bias = nullptr;  // [V], or null
};

/// Σ over the rows with a target of -log softmax(logits)[target], in f64. hidden [N, D] after the final norm; targets
/// [N], each in [0, V) or -1 for a row that is not scored. The logits are made and used some rows at a time, never as a
/// whole.
///
/// Under a tape its gradient, times `gradient_weight` (1 / the number of targets for a mean), goes to hidden and to the
/// head's weight and bias: this is where the backward pass begins. Since all that needs the logits, it is computed on
/// the way forward and the head's gradient added at once.
double next_token_loss(Context& context, tensor::ConstMatrix hidden, const HeadShape& head,
                       std::span<const int32_t> targets, double gradient_weight);

}  // namespace coterie::ops
