#include "serve/logprobs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace coterie::serve {

Logprobs logprobs(std::span<const float> logits, TokenId token, int64_t count) {
  const float most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
  const double log_sum = std::log(sum) + most;
  const auto of = [&](TokenId id) { return static_cast<float>(logits[static_cast<size_t>(id)] - log_sum); };
  Logprobs result{of(token), {}};
  const auto kept = static_cast<size_t>(std::clamp<int64_t>(count, 0, std::ssize(logits)));
  if (kept == 0) return result;
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + static_cast<int64_t>(kept), ids.end(), [&](TokenId a, TokenId b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  for (size_t i = 0; i < kept; ++i) result.top.push_back({ids[i], of(ids[i])});
  return result;
}

Logprobs logprobs(runtime::Candidates drawn_from, TokenId token, int64_t count) {
  std::sort(drawn_from.begin(), drawn_from.end(), [](const runtime::Candidate& a, const runtime::Candidate& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
  });
  Logprobs result;
  for (const runtime::Candidate& each : drawn_from) {
    const auto logprob = static_cast<float>(std::log(each.probability));
    if (each.id == token) result.of_token = logprob;
    if (std::ssize(result.top) < count && each.probability > 0) result.top.push_back({each.id, logprob});
  }
  return result;
}

}  // namespace coterie::serve
