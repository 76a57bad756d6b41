#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "layers/moe/router_spec.h"

// Every routing rule again, in f64, by sorting and sets, from its definition and independent of the code under test.
namespace coterie::layers::reference {

struct Choice {
  std::vector<int32_t> ids;
  std::vector<double> weights;
};
using Values = std::vector<double>;

inline Values scores(RouterSpec::Score score, Values x) {
  if (score == RouterSpec::Score::sigmoid) {
    for (double& v : x) v = 1 / (1 + std::exp(-v));
  } else if (score == RouterSpec::Score::sqrt_softplus) {
    // log(1 + e^v), which is v where e^v would overflow and e^v where it is lost beside the 1.
    for (double& v : x) v = std::sqrt(v > 40 ? v : v < -40 ? std::exp(v) : std::log(1 + std::exp(v)));
  } else {
    const double top = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (double& v : x) sum += v = std::exp(v - top);
    for (double& v : x) v /= sum;
  }
  return x;
}

/// Indices by descending value, the lower one first among equals.
inline std::vector<int32_t> ranking(const Values& values) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  return order;
}

inline Choice top_k(const RouterSpec& spec, const Values& h, const std::vector<float>& bias) {
  const bool first = spec.order == RouterSpec::Order::score_then_select;
  const Values p = first ? scores(spec.score, h) : h;
  Values c = p;
  if (spec.selection_bias)
    for (size_t i = 0; i < c.size(); ++i) c[i] += static_cast<double>(bias[i]);

  Values of_group;
  const auto size = static_cast<size_t>(spec.experts / spec.groups);
  for (size_t g = 0; g < static_cast<size_t>(spec.groups); ++g) {
    Values members(c.begin() + static_cast<int64_t>(g * size), c.begin() + static_cast<int64_t>((g + 1) * size));
    std::sort(members.rbegin(), members.rend());
    const bool two = spec.group_score == RouterSpec::GroupScore::best_two && spec.groups > 1;
    of_group.push_back(two ? members[0] + members[1] : members[0]);
  }
  const std::vector<int32_t> groups = ranking(of_group);
  const std::set<int32_t> kept(groups.begin(), groups.begin() + spec.groups_kept);

  Choice choice;
  for (const int32_t id : ranking(c))
    if (kept.contains(id / static_cast<int32_t>(size)) &&
        static_cast<int64_t>(choice.ids.size()) < spec.experts_per_token)
      choice.ids.push_back(id);
  for (const int32_t id : choice.ids) choice.weights.push_back(p[static_cast<size_t>(id)]);
  if (!first) choice.weights = scores(spec.score, choice.weights);
  const double sum = std::accumulate(choice.weights.begin(), choice.weights.end(), 0.0) + spec.renormalise_epsilon;
  for (double& w : choice.weights) w = (spec.renormalise ? w / sum : w) * static_cast<double>(spec.scale);
  return choice;
}

/// transformers' sparsemixer (modeling_phimoe.py) at inference, for any k.
inline Choice sparsemixer(const RouterSpec& spec, const Values& h) {
  Choice choice;
  Values left = h;
  for (int64_t k = 0; k < spec.experts_per_token; ++k) {
    const int32_t best = ranking(left).front();
    const double top = left[static_cast<size_t>(best)];
    double sum = 0;
    for (size_t i = 0; i < h.size(); ++i) {
      const double factor = std::max(std::abs(h[i]), top);
      const bool masked = (top - h[i]) / factor > 2 * static_cast<double>(spec.near_best);
      if (!masked) sum += std::exp(left[i] - top);  // e^-inf = 0 for those that were chosen before
    }
    choice.ids.push_back(best);
    choice.weights.push_back(1 / sum * static_cast<double>(spec.scale));
    left[static_cast<size_t>(best)] = -std::numeric_limits<double>::infinity();
  }
  return choice;
}

inline Choice choose(const RouterSpec& spec, const std::vector<float>& logits, const std::vector<float>& bias) {
  const Values h(logits.begin(), logits.end());
  return spec.selection == RouterSpec::Selection::sparsemixer ? sparsemixer(spec, h) : top_k(spec, h, bias);
}

}  // namespace coterie::layers::reference
