#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/rng.h"
#include "layers/moe/routers/kind.h"

namespace coterie::layers {
namespace {

constexpr int64_t kExperts = 8, kChosen = 3;

std::vector<float> draw(int64_t n, uint64_t key, float size) {
  base::Rng rng(key);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = size * rng.normal();
  return values;
}

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};
Choice choice_of(const RouterSpec& spec, const float* logits) {
  Choice c{std::vector<int32_t>(static_cast<size_t>(spec.experts_per_token)),
           std::vector<float>(static_cast<size_t>(spec.experts_per_token))};
  std::vector<double> scratch(static_cast<size_t>(choose_scratch(spec)));
  const std::vector<float> bias(kExperts, 0.1f);
  choose({spec, logits, spec.selection_bias ? bias.data() : nullptr, {}, scratch}, c.ids.data(), c.weights.data());
  return c;
}

/// Central differences of f by each of `values`, in place.
void expect_differences(std::vector<float>& values, const std::vector<float>& gradient,
                        const std::function<double()>& f, double tolerance) {
  constexpr double kStep = 1.0 / 256;
  for (size_t i = 0; i < values.size(); ++i) {
    const float kept = values[i];
    values[i] = kept + static_cast<float>(kStep);
    const double up = f();
    values[i] = kept - static_cast<float>(kStep);
    const double down = f();
    values[i] = kept;
    EXPECT_NEAR(static_cast<double>(gradient[i]), (up - down) / (2 * kStep), tolerance) << i;
  }
}

std::vector<RouterSpec> specs() {
  std::vector<RouterSpec> result;
  for (const RouterSpec::Score score :
       {RouterSpec::Score::softmax, RouterSpec::Score::sigmoid, RouterSpec::Score::sqrt_softplus})
    for (const RouterSpec::Order order : {RouterSpec::Order::score_then_select, RouterSpec::Order::select_then_score})
      for (const bool renormalise : {false, true}) {
        RouterSpec& spec = result.emplace_back();
        spec.experts = kExperts, spec.experts_per_token = kChosen;
        spec.score = score, spec.order = order, spec.renormalise = renormalise, spec.scale = 1.5f;
      }
  RouterSpec groups = result.front();
  groups.score = RouterSpec::Score::sigmoid, groups.selection_bias = true, groups.renormalise = true;
  groups.groups = 4, groups.groups_kept = 2, groups.group_score = RouterSpec::GroupScore::best_two;
  result.push_back(groups);
  RouterSpec sparse = result.front();
  sparse.selection = RouterSpec::Selection::sparsemixer, sparse.near_best = 0.4f, sparse.scale = 1;
  result.push_back(sparse);
  return result;
}

// The gradient of Σ a_i w_i by the logits, wherever a step does not change the choice.
TEST(RouterGradient, EqualsFiniteDifferencesForEveryRule) {
  const std::vector<float> a = {0.7f, -1.1f, 0.4f};
  int compared = 0;
  for (const RouterSpec& spec : specs()) {
    for (uint64_t key = 0; key < 8; ++key) {
      SCOPED_TRACE(key);
      std::vector<float> logits = draw(kExperts, key, 1.5f);
      const Choice c = choice_of(spec, logits.data());
      const std::vector<double> dweights(a.begin(), a.end());
      std::vector<float> gradient(kExperts);
      kind_of(spec.selection).weigh_backward(spec, logits.data(), c.ids, dweights.data(), gradient.data());
      bool steady = true;
      const auto f = [&] {
        const Choice now = choice_of(spec, logits.data());
        steady = steady && now.ids == c.ids;
        double sum = 0;
        for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(now.weights[i]);
        return sum;
      };
      // SparseMixer's set of near experts is a choice too: it must not change within a step.
      for (size_t i = 0; i < logits.size(); ++i)
        for (const float step : {-1.0f / 64, 1.0f / 64}) {
          const float kept = logits[i];
          logits[i] += step, f(), logits[i] = kept;
        }
      if (!steady) continue;
      if (spec.selection == RouterSpec::Selection::sparsemixer) {
        bool near_edge = false;
        for (const int32_t id : c.ids)
          for (const float l : logits) {
            const float top = logits[static_cast<size_t>(id)];
            near_edge |= std::abs((top - l) / std::max(std::abs(l), top) - 2 * spec.near_best) < 0.05f;
          }
        if (near_edge) continue;
      }
      ++compared;
      expect_differences(logits, gradient, f, 2e-4);
    }
  }
  EXPECT_GE(compared, 40);
}

}  // namespace
}  // namespace coterie::layers
