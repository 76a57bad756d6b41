#pragma once

#include <cstdint>
#include <span>

#include "layers/moe/router_spec.h"

namespace coterie::layers {

/// What a random draw depends on (Selection::sample): Philox keyed by these, whatever the batch.
struct RouterDraw {
  uint64_t key = 0;
  int64_t layer = 0, position = 0;
};

/// Doubles that choose() needs as scratch.
int64_t choose_scratch(const RouterSpec& spec);

/// One token's choice by the rule of `spec`, from its f32 logits [E]: writes K different expert ids in [0, E), best
/// first, and what each expert's output is multiplied by. `selection_bias` [E], or nullptr when the spec has none.
///
/// Each score is computed in f64 and rounded to f32 once, when it has become a weight: so a score of 1e-8 still decides
/// between experts beside a bias of 12, where f32 sums would tie. An expert whose logit is NaN loses against every
/// other; where the formula reads it (any NaN under a softmax, a chosen NaN elsewhere) the weights are NaN.
void choose(const RouterSpec& spec, const float* logits, const float* selection_bias, const RouterDraw& draw,
            std::span<double> scratch, int32_t* ids, float* weights);

}  // namespace coterie::layers
