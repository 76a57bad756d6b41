#pragma once

#include <cstdint>
#include <span>

#include "layers/moe/router_spec.h"

namespace coterie::layers {

/// What a random draw depends on: Philox keyed by these, whatever the batch.
struct RouterDraw {
  uint64_t key = 0;
  int64_t layer = 0, position = 0;
  int32_t id = -1;  // the token itself, of hash layers
};

/// What a rule sees of one token.
struct TokenChoice {
  const RouterSpec& spec;
  const float* logits;                    // [E], with noise where some was drawn
  const float* selection_bias = nullptr;  // [E], or null when the spec has none
  RouterDraw draw = {};
  std::span<double> scratch;  // choose_scratch()
  bool training = false;
};

/// Doubles that choosing needs as scratch.
int64_t choose_scratch(const RouterSpec& spec);

/// One token's choice by the rule of `spec`, for rules that go token by token: writes K different expert ids in
/// [0, E), best first, and what each expert's output is multiplied by.
///
/// Each score is computed in f64 and rounded to f32 once, when it has become a weight: so a score of 1e-8 still decides
/// between experts beside a bias of 12, where f32 sums would tie. An expert whose logit is NaN loses against every
/// other; where the formula reads it (any NaN under a softmax, a chosen NaN elsewhere) the weights are NaN.
void choose(const TokenChoice& token, int32_t* ids, float* weights);

/// All experts that the token could have been given by its rule, best first: choose() with the largest K. ids [E], of
/// which as many are written as are returned.
int64_t rank_experts(const TokenChoice& token, int32_t* ids);

}  // namespace coterie::layers
