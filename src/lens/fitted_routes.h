#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lens/routes.h"

namespace coterie::lens {

/// Routes that are drawn so that experts come back as they do in a published model. Random weights route evenly, which
/// no trained model does, and which no memory smaller than the model can serve.
///
/// The logit of expert e at token t: P(e) + F(e, t) + S(e, t) + N(0, 1), the K largest of each layer being chosen. P is
/// N(0, popularity) and stays; F and S follow the text, fast and slowly: each is its scale times an autoregressive
/// process of first order, of variance 1, with the correlation from a token to the next.
struct FittedRouting {
  std::string_view name;
  double popularity = 0, fast = 0, fast_correlation = 0, slow = 0, slow_correlation = 0;
};

/// "even": every token's experts are drawn anew, each as often as the others, which is what memory helps least. Fitted
/// to the reuse of experts and to the hits of LRU in recorded routes of OLMoE-1B-7B (64 experts, 8 a token) and
/// Qwen3-30B-A3B (128, 6): "olmoe", "qwen3". Throws bad_input, naming all, for another.
const FittedRouting& fitted_routing(std::string_view name);
std::string fitted_names();
/// The one fitted to a model of about so many experts.
const FittedRouting& fitted_for(int64_t experts);

/// One sequence of `tokens` tokens. Draws are keyed by the seed, the layer and the expert.
Routes fitted_routes(const FittedRouting& fitted, int64_t layers, int64_t experts, int64_t choices, int64_t tokens,
                     uint64_t seed);

}  // namespace coterie::lens
