#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/candidates.h"
#include "serve/request.h"

namespace coterie::serve {

/// Natural logarithms of probabilities, softmax(logits), of one position: of a token and of the `count` most probable,
/// best first, of equal ones the lower id. Sums are taken in f64 in the order of ids, so they are the same each time.
struct Logprobs {
  float of_token = 0;
  std::vector<TokenLogprob> top;
};
Logprobs logprobs(std::span<const float> logits, TokenId token, int64_t count);
/// The same of the candidates that a token was drawn from.
Logprobs logprobs(runtime::Candidates drawn_from, TokenId token, int64_t count);

}  // namespace coterie::serve
