#pragma once

#include <cstdint>
#include <span>

#include "layers/moe/choose.h"
#include "layers/moe/router_spec.h"

// What the outputs of a token's experts are multiplied by, as a function of its logits and of who was chosen.
namespace coterie::layers {

/// In place, x [n]: softmax from the maximum, NaN aside; the others by element.
void score_all(RouterSpec::Score score, double* x, int64_t n);

/// score(h) of the chosen, of all logits or of theirs alone (spec.order); / their sum and × scale as the spec has it.
/// Or `scale` for each (Combine::sum). `ids` may name experts that were then dropped: they count in the sum.
void weigh_scores(const TokenChoice& token, std::span<const int32_t> ids, float* weights);

/// The backward pass: adds to dlogits [E] what the gradient by the weights, dweights [ids], is by the logits. Whom the
/// rule chose has no gradient. All in f64 but what is added.
void weigh_scores_backward(const RouterSpec& spec, const float* logits, std::span<const int32_t> ids,
                           const double* dweights, float* dlogits);

}  // namespace coterie::layers
