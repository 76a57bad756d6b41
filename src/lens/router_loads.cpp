#include "lens/router_loads.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "layers/moe/scores.h"
#include "ops/log_sum_exp.h"

namespace coterie::lens {

using layers::RouterSpec, layers::sigmoid, layers::softplus;

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

namespace {

// p: the softmax of n values that lie `stride` apart. Returns its entropy in nats.
double softmax_of(const float* values, int64_t n, int64_t stride, std::vector<double>& p) {
  p.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) p[static_cast<size_t>(i)] = static_cast<double>(values[i * stride]);
  const double top = *std::max_element(p.begin(), p.end());
  double sum = 0, entropy = 0;
  for (double& v : p) sum += v = std::exp(v - top);
  for (double& v : p) {
    v /= sum;
    if (v > 0) entropy -= v * std::log(v);
  }
  return entropy;
}

}  // namespace

std::vector<double> RouterLoads::numbers() const {
  std::vector<double> all;
  for (const auto& [layer, l] : layers_) {
    all.insert(all.end(),
               {static_cast<double>(layer), static_cast<double>(l.assignments.size()), static_cast<double>(l.mixture),
                l.tokens, l.entropy, l.squares, l.dropped, l.overflow, l.reading, l.slots});
    for (const std::vector<double>* of : {&l.assignments, &l.probability})
      all.insert(all.end(), of->begin(), of->end());
  }
  return all;
}

void RouterLoads::add(std::span<const double> given) {
  const auto next = [&] {
    base::require(!given.empty(), "router loads", "numbers that end too early");
    const double value = given.front();
    given = given.subspan(1);
    return value;
  };
  while (!given.empty()) {
    RouterLoad& l = layers_[static_cast<int64_t>(next())];
    const auto experts = static_cast<size_t>(next());
    l.mixture = next() != 0;
    for (double* of : {&l.tokens, &l.entropy, &l.squares, &l.dropped, &l.overflow, &l.reading, &l.slots}) *of += next();
    for (std::vector<double>* of : {&l.assignments, &l.probability}) {
      of->resize(experts);
      for (double& value : *of) value += next();
    }
  }
}

void RouterLoads::mixed(const layers::Mixture& mixture) {
  RouterLoad& load = layers_[mixture.layer];
  const auto experts = static_cast<size_t>(mixture.experts);
  const tensor::ConstMatrix& logits = mixture.logits;
  const auto slots = static_cast<size_t>(logits.cols) / experts;
  load.mixture = true;
  load.assignments.resize(experts), load.probability.resize(experts);
  load.tokens += static_cast<double>(logits.rows);
  std::vector<double> p;
  for (int64_t t = 0; t < logits.rows; ++t) {
    softmax_of(logits.row(t), logits.cols, 1, p);
    for (size_t e = 0; e < experts; ++e) {
      double share = 0;
      for (size_t s = 0; s < slots; ++s) share += p[e * slots + s];
      load.assignments[e] += share, load.probability[e] += share;
      if (share > 0) load.entropy -= share * std::log(share);
    }
  }
  for (const layers::SequenceRows& s : mixture.sequences) {
    if (s.rows < 2) continue;
    for (int64_t slot = 0; slot < logits.cols; ++slot)
      load.reading +=
          softmax_of(logits.row(s.first_row) + slot, s.rows, logits.stride, p) / std::log(static_cast<double>(s.rows));
    load.slots += static_cast<double>(logits.cols);
  }
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

}  // namespace coterie::lens
