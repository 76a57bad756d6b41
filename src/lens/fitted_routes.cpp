#include "lens/fitted_routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace coterie::lens {

namespace {

constexpr std::array<FittedRouting, 3> kFitted = {{
    {"even", 0, 0, 0, 0, 0},
    {"olmoe", 1.0, 2.0, 0.55, 1.0, 0.97},
    {"qwen3", 2.4, 2.2, 0.5, 0.6, 0.97},
}};

/// The logits of one layer, token after token.
class Layer {
 public:
  Layer(const FittedRouting& fitted, int64_t experts, uint64_t seed, int64_t layer)
      : fitted_(fitted), rng_(seed, static_cast<uint64_t>(layer)) {
    const auto n = static_cast<size_t>(experts);
    popular_.resize(n), fast_.resize(n), slow_.resize(n), logits_.resize(n);
    for (size_t e = 0; e < n; ++e) {
      popular_[e] = fitted.popularity * normal();
      fast_[e] = normal(), slow_[e] = normal();
    }
  }

  const std::vector<double>& next() {
    const auto step = [&](double& value, double correlation) {
      value = correlation * value + std::sqrt(1 - correlation * correlation) * normal();
    };
    for (size_t e = 0; e < logits_.size(); ++e) {
      step(fast_[e], fitted_.fast_correlation), step(slow_[e], fitted_.slow_correlation);
      logits_[e] = popular_[e] + fitted_.fast * fast_[e] + fitted_.slow * slow_[e] + normal();
    }
    return logits_;
  }

 private:
  double normal() { return static_cast<double>(rng_.normal()); }

  const FittedRouting& fitted_;
  base::Rng rng_;
  std::vector<double> popular_, fast_, slow_, logits_;
};

}  // namespace

const FittedRouting& fitted_routing(std::string_view name) {
  for (const FittedRouting& fitted : kFitted)
    if (fitted.name == name) return fitted;
  base::fail(base::ErrorKind::bad_input, "routes.fitted", "\"{}\" is not known, expected one of {}", name,
             fitted_names());
}

std::string fitted_names() {
  std::string names;
  for (const FittedRouting& fitted : kFitted) names += (names.empty() ? "" : ", ") + std::string(fitted.name);
  return names;
}

const FittedRouting& fitted_for(int64_t experts) { return fitted_routing(experts < 96 ? "olmoe" : "qwen3"); }

Routes fitted_routes(const FittedRouting& fitted, int64_t layers, int64_t experts, int64_t choices, int64_t tokens,
                     uint64_t seed) {
  base::require(layers > 0 && choices > 0 && choices <= experts && tokens > 0, "fitted routes",
                "{} of {} experts in {} layers for {} tokens", choices, experts, layers, tokens);
  Routes routes{.model = fmt::format("fitted:{}", fitted.name),
                .layers = layers,
                .experts = experts,
                .choices = choices,
                .ids = std::vector<int16_t>(static_cast<size_t>(tokens * layers * choices)),
                .sequence_begin = {0, tokens},
                .prompt = {0}};
  std::vector<int16_t> order(static_cast<size_t>(experts));
  for (int64_t l = 0; l < layers; ++l) {
    Layer layer(fitted, experts, seed, l);
    for (int64_t t = 0; t < tokens; ++t) {
      const std::vector<double>& logits = layer.next();
      std::iota(order.begin(), order.end(), int16_t{0});
      std::partial_sort(order.begin(), order.begin() + choices, order.end(), [&](int16_t a, int16_t b) {
        return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
      });
      std::copy_n(order.begin(), choices, routes.ids.begin() + (t * layers + l) * choices);
    }
  }
  return routes;
}

}  // namespace coterie::lens
