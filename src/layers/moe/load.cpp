#include "layers/moe/load.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "layers/moe/scores.h"
#include "ops/log_sum_exp.h"

namespace coterie::layers {

std::vector<double> RouterLoad::load() const {
  std::vector<double> result(assignments.size());
  const double all = std::accumulate(assignments.begin(), assignments.end(), 0.0);
  if (all == 0) return result;
  const double each = all / static_cast<double>(assignments.size());
  std::transform(assignments.begin(), assignments.end(), result.begin(), [each](double a) { return a / each; });
  return result;
}

double RouterLoad::load_cv() const {
  double sum = 0;
  for (const double l : load()) sum += (l - 1) * (l - 1);
  return std::sqrt(sum / static_cast<double>(std::max<size_t>(assignments.size(), 1)));
}

double RouterLoad::max_load() const {
  const std::vector<double> all = load();
  return all.empty() ? 0 : *std::max_element(all.begin(), all.end());
}

int64_t RouterLoad::dead() const { return std::count(assignments.begin(), assignments.end(), 0.0); }

double RouterLoad::balance() const {
  const std::vector<double> shares = load();
  double sum = 0;
  for (size_t e = 0; e < shares.size(); ++e) sum += shares[e] * probability[e];
  return tokens > 0 ? sum / tokens : 0;
}

double RouterLoad::mean_entropy() const {
  const double most = std::log(static_cast<double>(assignments.size()));
  return tokens > 0 && most > 0 ? entropy / tokens / most : 0;
}

void RouterLoads::plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) {
  RouterLoad& load = layers_[layer];
  const auto experts = static_cast<size_t>(logits.cols);
  load.assignments.resize(experts), load.probability.resize(experts);
  for (size_t e = 0; e < experts; ++e)
    load.assignments[e] += static_cast<double>(plan.tokens_of(static_cast<int64_t>(e)).size());
  load.tokens += static_cast<double>(logits.rows);
  load.dropped += static_cast<double>(plan.dropped.size());
  load.overflow += static_cast<double>(plan.overflowed);
  std::vector<double> p(experts);
  for (int64_t t = 0; t < logits.rows; ++t) {
    const float* row = logits.row(t);
    const double total = ops::log_sum_exp(row, logits.cols);
    load.squares += total * total;
    if (score_ == RouterSpec::Score::softmax) {
      load.entropy += total;
      for (size_t e = 0; e < experts; ++e) {
        const auto logit = static_cast<double>(row[e]), share = std::exp(logit - total);
        load.probability[e] += share;
        if (share > 0) load.entropy -= share * logit;
      }
      continue;
    }
    double sum = 0;
    for (size_t e = 0; e < experts; ++e) {
      const auto logit = static_cast<double>(row[e]);
      sum += p[e] = score_ == RouterSpec::Score::sigmoid ? sigmoid(logit) : std::sqrt(softplus(logit));
    }
    for (size_t e = 0; e < experts; ++e) {
      const double share = p[e] / sum;
      load.probability[e] += share;
      if (share > 0) load.entropy -= share * std::log(share);
    }
  }
}

}  // namespace coterie::layers
