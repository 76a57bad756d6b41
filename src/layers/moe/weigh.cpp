#include "layers/moe/weigh.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "layers/moe/scores.h"

namespace coterie::layers {

void score_all(RouterSpec::Score score, double* x, int64_t n) {
  switch (score) {
    case RouterSpec::Score::softmax: {
      double top = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
      for (int64_t i = 0; i < n; ++i) sum += x[i] = std::exp(x[i] - top);
      for (int64_t i = 0; i < n; ++i) x[i] /= sum;
      return;
    }
    case RouterSpec::Score::sigmoid:
      for (int64_t i = 0; i < n; ++i) x[i] = sigmoid(x[i]);
      return;
    case RouterSpec::Score::sqrt_softplus:
      for (int64_t i = 0; i < n; ++i) x[i] = std::sqrt(softplus(x[i]));
      return;
  }
}

void weigh_scores(const TokenChoice& token, std::span<const int32_t> ids, float* weights) {
  const RouterSpec& spec = token.spec;
  const int64_t e = spec.experts, k = std::ssize(ids);
  if (spec.combine == RouterSpec::Combine::sum) {
    std::fill_n(weights, k, spec.scale);
    return;
  }
  double* const chosen = token.scratch.data();  // [E]
  double* const all = chosen + e;               // [E]
  if (spec.order == RouterSpec::Order::score_then_select) {
    std::copy(token.logits, token.logits + e, all);
    score_all(spec.score, all, e);
    for (int64_t i = 0; i < k; ++i) chosen[i] = all[ids[static_cast<size_t>(i)]];
  } else {
    for (int64_t i = 0; i < k; ++i) chosen[i] = static_cast<double>(token.logits[ids[static_cast<size_t>(i)]]);
    score_all(spec.score, chosen, k);
  }
  double sum = 1;
  if (spec.renormalise && spec.renormalise_floor)
    sum = std::max(std::accumulate(chosen, chosen + k, 0.0), spec.renormalise_epsilon);
  else if (spec.renormalise)
    sum = std::accumulate(chosen, chosen + k, spec.renormalise_epsilon);
  for (int64_t i = 0; i < k; ++i) weights[i] = static_cast<float>(chosen[i] / sum * static_cast<double>(spec.scale));
}

void weigh_scores_backward(const RouterSpec& spec, const float* logits, std::span<const int32_t> ids,
                           const double* dweights, float* dlogits) {
  if (spec.combine == RouterSpec::Combine::sum) return;
  const size_t k = ids.size();
  const bool all = spec.order == RouterSpec::Order::score_then_select,
             softmax = spec.score == RouterSpec::Score::softmax;
  // The scores of the chosen; a softmax may have been taken over all experts, or over them alone.
  std::vector<double> scores(k), all_scores;
  for (size_t i = 0; i < k; ++i) scores[i] = static_cast<double>(logits[ids[i]]);
  if (softmax && all) {
    all_scores.assign(logits, logits + spec.experts);
    score_all(spec.score, all_scores.data(), spec.experts);
    for (size_t i = 0; i < k; ++i) scores[i] = all_scores[static_cast<size_t>(ids[i])];
  } else {
    score_all(spec.score, scores.data(), static_cast<int64_t>(k));
  }

  std::vector<double> d(dweights, dweights + k);
  for (double& v : d) v *= static_cast<double>(spec.scale);
  if (spec.renormalise) {  // w_i = s_i / S: ds_i = (dw_i - Σ_j dw_j w_j) / S; below a floor S is a constant
    double sum = spec.renormalise_floor ? 0 : spec.renormalise_epsilon, along = 0;
    for (const double s : scores) sum += s;
    const bool constant = spec.renormalise_floor && sum < spec.renormalise_epsilon;
    if (constant) sum = spec.renormalise_epsilon;
    for (size_t i = 0; !constant && i < k; ++i) along += d[i] * scores[i] / sum;
    for (double& v : d) v = (v - along) / sum;
  }
  const auto add = [&](size_t i, double value) { dlogits[ids[i]] += static_cast<float>(value); };
  switch (spec.score) {
    case RouterSpec::Score::softmax: {  // dx_i = p_i (dp_i - Σ_j dp_j p_j)
      double along = 0;
      for (size_t i = 0; i < k; ++i) along += d[i] * scores[i];
      for (size_t e = 0; e < all_scores.size(); ++e) dlogits[e] -= static_cast<float>(all_scores[e] * along);
      for (size_t i = 0; i < k; ++i) add(i, scores[i] * (all ? d[i] : d[i] - along));
      return;
    }
    case RouterSpec::Score::sigmoid:
      for (size_t i = 0; i < k; ++i) add(i, d[i] * scores[i] * (1 - scores[i]));
      return;
    case RouterSpec::Score::sqrt_softplus:  // √ vanishes only where exp does
      for (size_t i = 0; i < k; ++i)
        if (scores[i] > 0) add(i, d[i] * sigmoid(static_cast<double>(logits[ids[i]])) / (2 * scores[i]));
      return;
  }
}

}  // namespace coterie::layers
