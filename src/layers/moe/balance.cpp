#include "layers/moe/balance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "layers/moe/balance_load.h"
#include "layers/moe/routers/kind.h"
#include "layers/moe/scores.h"
#include "ops/log_sum_exp.h"

namespace coterie::layers {

namespace {

using ops::log_sum_exp;
using Balance = RouterLossSpec::Balance;
using Scope = RouterLossSpec::Scope;

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

bool is_switch(Balance balance) { return balance == Balance::all_choices || balance == Balance::first_choice; }
bool has_importance(Balance balance) {
  return balance == Balance::importance || balance == Balance::importance_and_load;
}

int64_t choices_of(const Routed& router) {
  return std::ssize(router.chosen) / std::max<int64_t>(1, router.logits.rows);
}

}  // namespace

void RouterLosses::add_up(const Routed& router, int64_t begin, int64_t end, Sums& sums) const {
  const auto experts = static_cast<size_t>(router.logits.cols);
  const auto size = [&](std::vector<double>& v) {
    if (v.empty()) v.resize(experts);
    base::require(v.size() == experts, "router losses", "layer {} has {} and {} experts", router.layer, v.size(),
                  experts);
  };
  size(sums.assignments), size(sums.probability), size(sums.importance), size(sums.load);
  const int64_t choices = choices_of(router), counted = spec_.balance == Balance::first_choice ? 1 : choices;
  std::vector<double> p;
  double total = 0;
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t i = 0; i < std::min(counted, choices); ++i)
      if (const int32_t id = router.chosen[static_cast<size_t>(t * choices + i)]; id >= 0)
        ++sums.assignments[static_cast<size_t>(id)], ++sums.counted;
    const double lse = log_sum_exp(router.logits.row(t), router.logits.cols);
    probabilities(spec_.score, router.logits.row(t), router.logits.cols, lse, p, total);
    for (size_t e = 0; e < experts; ++e) sums.probability[e] += p[e];
    sums.squares += lse * lse;
  }
  sums.tokens += static_cast<double>(end - begin);
  if (has_importance(spec_.balance)) add_importance(router, begin, end, sums.importance);
  if (spec_.balance == Balance::importance_and_load) add_load(router, begin, end, sums.load);
}

double RouterLosses::balance_of(const Sums& sums) const {
  if (sums.tokens == 0) return 0;
  if (has_importance(spec_.balance)) {
    double value = squared_variation(sums.importance);
    if (spec_.balance == Balance::importance_and_load) value += squared_variation(sums.load);
    return spec_.balance_coefficient * value;
  }
  if (spec_.balance == Balance::none || sums.counted == 0) return 0;
  // Σ c = K T, so E / (K T²) is E / (counted T).
  double sum = 0;
  for (size_t e = 0; e < sums.assignments.size(); ++e) sum += sums.assignments[e] * sums.probability[e];
  return spec_.balance_coefficient * static_cast<double>(sums.assignments.size()) / (sums.counted * sums.tokens) * sum;
}

void RouterLosses::routed(const Routed& router) {
  Layer& l = layers_[router.layer];
  const int64_t rows = router.logits.rows;
  if (spec_.scope == Scope::batch) {
    add_up(router, 0, rows, l.sums);
    return;
  }
  const auto stretch = [&](int64_t begin, int64_t end, double size) {
    Sums sums;
    add_up(router, begin, end, sums);
    l.value += size * balance_of(sums), l.size += size;
    l.squares += sums.squares, l.tokens += sums.tokens;
  };
  if (spec_.scope == Scope::micro_batch) return stretch(0, rows, static_cast<double>(rows));
  for (const SequenceRows& s : router.sequences) stretch(s.first_row, s.first_row + s.rows, 1);
}

std::vector<double> RouterLosses::sums() const {
  std::vector<double> all;
  for (const auto& [at, l] : layers_) {
    const Sums& sums = l.sums;
    all.insert(all.end(), {static_cast<double>(at), static_cast<double>(sums.assignments.size()), sums.tokens,
                           sums.counted, sums.squares});
    for (const std::vector<double>* of : {&sums.assignments, &sums.probability, &sums.importance, &sums.load})
      all.insert(all.end(), of->begin(), of->end());
  }
  return all;
}

void RouterLosses::add_sums(std::span<const double> given) {
  const auto next = [&] {
    base::require(!given.empty(), "router losses", "sums that end too early");
    const double value = given.front();
    given = given.subspan(1);
    return value;
  };
  while (!given.empty()) {
    Sums& sums = layers_[static_cast<int64_t>(next())].sums;
    const auto experts = static_cast<size_t>(next());
    for (double* of : {&sums.tokens, &sums.counted, &sums.squares}) *of += next();
    for (std::vector<double>* of : {&sums.assignments, &sums.probability, &sums.importance, &sums.load}) {
      of->resize(experts);
      for (double& value : *of) value += next();
    }
  }
}

const RouterLosses::Layer& RouterLosses::layer(int64_t at) const {
  const auto found = layers_.find(at);
  base::require(found != layers_.end(), "router losses", "layer {} was not observed", at);
  return found->second;
}

RouterLosses::Values RouterLosses::values(int64_t at) const {
  const Layer& l = layer(at);
  const bool batch = spec_.scope == Scope::batch;
  const double tokens = batch ? l.sums.tokens : l.tokens, squares = batch ? l.sums.squares : l.squares;
  Values values;
  if (tokens == 0) return values;
  values.z = spec_.z_coefficient * squares / tokens;
  values.balance = batch ? balance_of(l.sums) : l.size > 0 ? l.value / l.size : 0;
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

// Through the division by the sum, dh_i = s'_i / S (g_i - Σ_j g_j p_j), which for softmax is p_i (g_i - Σ_j g_j p_j).
void RouterLosses::balance_back(const Sums& sums, double factor, const Routed& router, int64_t begin, int64_t end,
                                const RoutedGradient& gradient) const {
  const auto experts = static_cast<size_t>(router.logits.cols);
  const double coefficient = factor * spec_.balance_coefficient;
  if (has_importance(spec_.balance)) {
    importance_back(router, begin, end, squared_variation_slope(sums.importance, coefficient), gradient);
    if (spec_.balance == Balance::importance_and_load)
      load_back(router, begin, end, squared_variation_slope(sums.load, coefficient), gradient);
    return;
  }
  if (!is_switch(spec_.balance) || sums.counted == 0) return;
  std::vector<double> by_probability(experts), p;
  for (size_t e = 0; e < experts; ++e)
    by_probability[e] = coefficient * static_cast<double>(experts) / (sums.counted * sums.tokens) * sums.assignments[e];
  const bool softmax = spec_.score == RouterSpec::Score::softmax;
  for (int64_t t = begin; t < end; ++t) {
    const float* const h = router.logits.row(t);
    double total = 0, along = 0;
    probabilities(spec_.score, h, router.logits.cols, log_sum_exp(h, router.logits.cols), p, total);
    for (size_t e = 0; e < experts; ++e) along += by_probability[e] * p[e];
    for (size_t e = 0; e < experts; ++e) {
      const double by_score = softmax ? p[e] : slope(spec_.score, p[e] * total, static_cast<double>(h[e])) / total;
      gradient.logits.row(t)[e] += static_cast<float>(by_score * (by_probability[e] - along));
    }
  }
}

void RouterLosses::add_gradient(const Routed& router, const RoutedGradient& gradient) const {
  const int64_t rows = router.logits.rows, experts = router.logits.cols;
  if (rows == 0) return;
  double z_tokens = static_cast<double>(rows), z_share = share_;
  if (spec_.scope == Scope::batch) {
    const Sums& sums = layer(router.layer).sums;
    balance_back(sums, 1, router, 0, rows, gradient);
    z_tokens = sums.tokens, z_share = 1;
  } else {
    const auto stretch = [&](int64_t begin, int64_t end, double factor) {
      Sums sums;
      add_up(router, begin, end, sums);
      balance_back(sums, factor, router, begin, end, gradient);
    };
    if (spec_.scope == Scope::micro_batch) stretch(0, rows, share_);
    const double count = static_cast<double>(router.sequences.size());
    if (spec_.scope == Scope::sequence)
      for (const SequenceRows& s : router.sequences) stretch(s.first_row, s.first_row + s.rows, share_ / count);
  }
  if (spec_.z_coefficient == 0) return;
  for (int64_t t = 0; t < rows; ++t) {  // d logsumexp² = 2 logsumexp softmax
    const float* const h = router.logits.row(t);
    const double lse = log_sum_exp(h, experts), z = z_share * spec_.z_coefficient * 2 * lse / z_tokens;
    for (int64_t e = 0; e < experts; ++e)
      gradient.logits.row(t)[e] += static_cast<float>(z * std::exp(static_cast<double>(h[e]) - lse));
  }
}

void check_trainable(const RouterSpec& spec, const RouterLossSpec& loss, std::string_view where) {
  const auto refuse = [&](std::string_view reason,
                          const char* hint =
                              "such a model still runs; to train one, give it weights that depend on "
                              "its logits (not renormalised, for one expert a token)") {
    throw base::Error(base::ErrorKind::bad_input, std::string(where),
                      "this router cannot be trained: " + std::string(reason), hint);
  };
  constexpr const char* kWithout = "remove that loss from the recipe";
  using Selection = RouterSpec::Selection;
  const bool balances = loss.balance != RouterLossSpec::Balance::none && loss.balance_coefficient > 0;
  const RouterKind& kind = kind_of(spec.selection);
  if (balances && kind.even)
    refuse("its own rule makes its loads even or fixed, so a balance loss has no effect", kWithout);
  if (loss.z_coefficient > 0 && (!spec.has_map() || spec.selection == Selection::soft))
    refuse("it has no logits of experts that a z-loss could keep small", kWithout);
  // Nothing to be taught: a table without logits, and mixtures, which are differentiable throughout.
  if (!spec.has_map() || spec.selection == Selection::soft) return;
  const bool softmax = spec.score == RouterSpec::Score::softmax;
  if (loss.balance == Balance::importance_and_load && (!spec.noise || spec.groups > 1 || spec.selection_bias))
    refuse(
        "the loss of load needs noisy top-k without groups or a bias of selection, whose noise it is a probability of",
        "take another kind of balance, or give the router noise");
  // The z-loss alone teaches a router to say nothing.
  if (spec.combine == RouterSpec::Combine::sum && !(is_switch(loss.balance) && loss.balance_coefficient > 0))
    refuse(has_importance(loss.balance) ? "outputs of experts that are summed have no weights, which importance sums"
                                        : "outputs of experts that are summed have no weights, so that no gradient "
                                          "reaches the router");
  if (spec.experts_per_token > 1 || kind.weigh != weigh_scores) return;
  if (spec.experts == 1) return;  // nothing to choose
  if (spec.renormalise)
    refuse(
        "with one expert per token, a weight divided by its own sum is 1 whatever the logits, so that no gradient "
        "reaches the router");
  if (spec.order == RouterSpec::Order::select_then_score && softmax)
    refuse(
        "with one expert per token, a softmax over the chosen is 1 whatever the logits, so that no gradient reaches "
        "the router");
}

}  // namespace coterie::layers
