#pragma once

#include <span>

#include "ops/context.h"
#include "tensor/view.h"

// What Soft MoE mixes (Puigcerver et al. 2023, arXiv:2308.00951): each sequence by itself. N tokens, P slots a
// sequence, B sequences.
namespace coterie::ops {

/// Rows first … first + rows - 1 of the batch.
struct MixedRows {
  int64_t first = 0, rows = 0;
};

/// logits[n, p] *= scale[0] / |slots[p]|, in place. logits [N, P], slots [P, D] f32, scale [1]: what makes x̂ · slots of
/// normalised tokens the paper's scaled cosines (section 2.3).
void scale_by_norm(Context& context, const tensor::Weight& slots, const float* scale, tensor::Matrix logits);
/// y[b P + p] = Σ_n softmax over the tokens n of sequence b of logits[n, p] · x[n]. x [N, D], y [B P, D].
void mix_tokens(Context& context, tensor::ConstMatrix logits, tensor::ConstMatrix x,
                std::span<const MixedRows> sequences, tensor::Matrix y);
/// y[n] = Σ_p softmax over the slots p of logits[n, p] · x[b P + p]. x [B P, D], y [N, D].
void mix_slots(Context& context, tensor::ConstMatrix logits, tensor::ConstMatrix x,
               std::span<const MixedRows> sequences, tensor::Matrix y);

}  // namespace coterie::ops
