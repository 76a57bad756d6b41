#include "layers/moe/balance_load.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "layers/moe/scores.h"

namespace coterie::layers {

namespace {

struct Moments {
  double mean = 0, variance = 0;
};
Moments moments(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  Moments m;
  m.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  for (const double v : values) m.variance += (v - m.mean) * (v - m.mean) / n;
  return m;
}
constexpr double kEpsilon = 1e-10;

/// f(token, expert, place of the slot) for every slot of tokens begin … end.
template <typename F>
void for_slots(const ops::RoutingPlan& plan, int64_t begin, int64_t end, const F& f) {
  for (int64_t e = 0; e < plan.experts(); ++e)
    for (int32_t s = plan.expert_offset[static_cast<size_t>(e)]; s < plan.expert_offset[static_cast<size_t>(e) + 1];
         ++s)
      if (const int32_t t = plan.slot_token[static_cast<size_t>(s)]; t >= begin && t < end)
        f(static_cast<size_t>(e), static_cast<size_t>(s));
}

/// How near an expert is to being chosen for a token.
struct Standing {
  double z, deviation;
  int64_t threshold;  // the expert whose noisy logit that is
};

/// f(token, expert, standing), unless every expert is chosen anyway.
template <typename F>
void for_standings(const Routed& router, int64_t begin, int64_t end, const F& f) {
  base::require(router.noisy.rows == router.logits.rows && router.noise.rows == router.logits.rows, "router losses",
                "the loss of load is of routers with noise, which was not drawn in layer {}", router.layer);
  const int64_t experts = router.logits.cols, k = std::ssize(router.chosen) / std::max<int64_t>(1, router.logits.rows);
  std::vector<int64_t> order(static_cast<size_t>(experts));
  for (int64_t t = begin; t < end; ++t) {
    const float* const noisy = router.noisy.row(t);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + std::min(k + 1, experts), order.end(),
                      [&](int64_t a, int64_t b) { return noisy[a] > noisy[b] || (noisy[a] == noisy[b] && a < b); });
    for (int64_t e = 0; e < experts; ++e) {
      const bool in = std::find(order.begin(), order.begin() + k, e) != order.begin() + k;
      const int64_t threshold = order[static_cast<size_t>(in ? k : k - 1)];
      const double deviation = softplus(static_cast<double>(router.noise.row(t)[e]));
      const double distance = static_cast<double>(router.logits.row(t)[e]) - static_cast<double>(noisy[threshold]);
      f(t, e, Standing{distance / deviation, deviation, threshold});
    }
  }
}

bool all_are_chosen(const Routed& router) {
  return std::ssize(router.chosen) >= router.logits.rows * router.logits.cols;
}

}  // namespace

double squared_variation(const std::vector<double>& values) {
  const Moments m = moments(values);
  return m.variance / (m.mean * m.mean + kEpsilon);
}

std::vector<double> squared_variation_slope(const std::vector<double>& values, double factor) {
  const Moments m = moments(values);
  const auto n = static_cast<double>(values.size());
  const double below = m.mean * m.mean + kEpsilon;
  std::vector<double> slope(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    slope[i] = factor * 2 / n * ((values[i] - m.mean) / below - m.variance * m.mean / (below * below));
  return slope;
}

void add_importance(const Routed& router, int64_t begin, int64_t end, std::vector<double>& importance) {
  for_slots(router.plan, begin, end,
            [&](size_t e, size_t slot) { importance[e] += static_cast<double>(router.plan.slot_weight[slot]); });
}

void importance_back(const Routed& router, int64_t begin, int64_t end, const std::vector<double>& by_importance,
                     const RoutedGradient& gradient) {
  for_slots(router.plan, begin, end,
            [&](size_t e, size_t slot) { gradient.weights[slot] += static_cast<float>(by_importance[e]); });
}

void add_load(const Routed& router, int64_t begin, int64_t end, std::vector<double>& load) {
  if (all_are_chosen(router)) {
    for (double& l : load) l += static_cast<double>(end - begin);
    return;
  }
  for_standings(router, begin, end, [&](int64_t, int64_t e, const Standing& s) {
    load[static_cast<size_t>(e)] += 0.5 * std::erfc(-s.z / std::sqrt(2.0));
  });
}

void load_back(const Routed& router, int64_t begin, int64_t end, const std::vector<double>& by_load,
               const RoutedGradient& gradient) {
  if (all_are_chosen(router)) return;
  for_standings(router, begin, end, [&](int64_t t, int64_t e, const Standing& s) {
    const double density = std::exp(-s.z * s.z / 2) / std::sqrt(2 * 3.141592653589793);
    const double by_logit = by_load[static_cast<size_t>(e)] * density / s.deviation;
    gradient.logits.row(t)[e] += static_cast<float>(by_logit);
    gradient.noisy.row(t)[s.threshold] -= static_cast<float>(by_logit);
    gradient.noise.row(t)[e] -=
        static_cast<float>(by_logit * s.z * sigmoid(static_cast<double>(router.noise.row(t)[e])));
  });
}

}  // namespace coterie::layers
