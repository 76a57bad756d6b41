#include "layers/moe/balance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "layers/moe/scores.h"
#include "ops/log_sum_exp.h"

namespace coterie::layers {

namespace {

using ops::log_sum_exp;

/// A token's probabilities; `total` is what scores were divided by (sigmoids).
void probabilities(RouterSpec::Score score, const float* logits, int64_t n, double lse, std::vector<double>& p,
                   double& total) {
  p.resize(static_cast<size_t>(n));
  total = 1;
  if (score == RouterSpec::Score::softmax) {
    for (int64_t i = 0; i < n; ++i) p[static_cast<size_t>(i)] = std::exp(static_cast<double>(logits[i]) - lse);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const auto h = static_cast<double>(logits[i]);
    p[static_cast<size_t>(i)] = score == RouterSpec::Score::sigmoid ? sigmoid(h) : std::sqrt(softplus(h));
  }
  total = std::accumulate(p.begin(), p.end(), 1e-20);
  for (double& v : p) v /= total;
}

/// d score / d logit, from the score.
double slope(RouterSpec::Score score, double value, double logit) {
  switch (score) {
    case RouterSpec::Score::softmax: return 1;
    case RouterSpec::Score::sigmoid: return value * (1 - value);
    case RouterSpec::Score::sqrt_softplus: return value > 0 ? sigmoid(logit) / (2 * value) : 0;
  }
  return 0;
}

}  // namespace

void RouterLosses::plan(int64_t at, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) {
  Layer& l = layers_[at];
  const auto experts = static_cast<size_t>(logits.cols);
  if (l.assignments.empty()) l.assignments.resize(experts), l.probability.resize(experts);
  base::require(l.assignments.size() == experts, "router losses", "layer {} has {} and {} experts", at,
                l.assignments.size(), experts);
  if (spec_.balance == RouterLossSpec::Balance::first_choice) {
    std::vector<int64_t> first(static_cast<size_t>(plan.slots()), 0);
    for (int64_t t = 0; t < plan.tokens; ++t)
      if (const int32_t begin = plan.token_offset[static_cast<size_t>(t)];
          begin < plan.token_offset[static_cast<size_t>(t) + 1])
        first[static_cast<size_t>(plan.token_slot[static_cast<size_t>(begin)])] = 1;
    for (size_t e = 0; e < experts; ++e)
      for (int32_t s = plan.expert_offset[e]; s < plan.expert_offset[e + 1]; ++s)
        l.assignments[e] += static_cast<double>(first[static_cast<size_t>(s)]);
  } else {
    for (size_t e = 0; e < experts; ++e)
      l.assignments[e] += static_cast<double>(plan.tokens_of(static_cast<int64_t>(e)).size());
  }
  l.counted = std::accumulate(l.assignments.begin(), l.assignments.end(), 0.0);
  std::vector<double> p;
  double total = 0;
  for (int64_t t = 0; t < logits.rows; ++t) {
    const double lse = log_sum_exp(logits.row(t), logits.cols);
    probabilities(spec_.score, logits.row(t), logits.cols, lse, p, total);
    for (size_t e = 0; e < experts; ++e) l.probability[e] += p[e];
    l.squares += lse * lse;
  }
  l.tokens += static_cast<double>(logits.rows);
}

const RouterLosses::Layer& RouterLosses::layer(int64_t at) const {
  const auto found = layers_.find(at);
  base::require(found != layers_.end(), "router losses", "layer {} was not listened to", at);
  return found->second;
}

RouterLosses::Values RouterLosses::values(int64_t at) const {
  const Layer& l = layer(at);
  Values values;
  if (l.tokens == 0) return values;
  values.z = spec_.z_coefficient * l.squares / l.tokens;
  if (spec_.balance == RouterLossSpec::Balance::none || l.counted == 0) return values;
  // Σ c = K T without dropping, so E / (K T²) is E / (counted T).
  double sum = 0;
  for (size_t e = 0; e < l.assignments.size(); ++e) sum += l.assignments[e] * l.probability[e];
  values.balance = spec_.balance_coefficient * static_cast<double>(l.assignments.size()) / (l.counted * l.tokens) * sum;
  return values;
}

RouterLosses::Values RouterLosses::values() const {
  Values sum;
  for (const auto& [at, l] : layers_) {
    const Values v = values(at);
    sum.balance += v.balance, sum.z += v.z;
  }
  return sum;
}

// Through the division by the sum, dh_i = s'_i / S (g_i - Σ_j g_j p_j), which for softmax is p_i (g_i - Σ_j g_j p_j);
// and d logsumexp² = 2 logsumexp softmax.
void RouterLosses::add_gradient(const Routed& router, const RoutedGradient& gradient) const {
  const tensor::ConstMatrix logits = router.logits;
  const tensor::Matrix dlogits = gradient.logits;
  const Layer& l = layer(router.layer);
  const auto experts = static_cast<size_t>(logits.cols);
  std::vector<double> by_probability(experts), p;
  if (spec_.balance != RouterLossSpec::Balance::none && l.counted > 0)
    for (size_t e = 0; e < experts; ++e)
      by_probability[e] =
          spec_.balance_coefficient * static_cast<double>(experts) / (l.counted * l.tokens) * l.assignments[e];
  const bool softmax = spec_.score == RouterSpec::Score::softmax;
  for (int64_t t = 0; t < logits.rows; ++t) {
    const float* const h = logits.row(t);
    const double lse = log_sum_exp(h, logits.cols);
    double total = 0, along = 0;
    probabilities(spec_.score, h, logits.cols, lse, p, total);
    for (size_t e = 0; e < experts; ++e) along += by_probability[e] * p[e];
    const double z = spec_.z_coefficient * 2 * lse / l.tokens;
    for (size_t e = 0; e < experts; ++e) {
      const auto logit = static_cast<double>(h[e]);
      const double by_score = softmax ? p[e] : slope(spec_.score, p[e] * total, logit) / total;
      dlogits.row(t)[e] += static_cast<float>(by_score * (by_probability[e] - along) + z * std::exp(logit - lse));
    }
  }
}

}  // namespace coterie::layers
