#include "layers/moe/router_gradient.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/rng.h"
#include "layers/moe/balance.h"
#include "layers/moe/choose.h"

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
  choose(spec, logits, spec.selection_bias ? bias.data() : nullptr, {}, scratch, c.ids.data(), c.weights.data());
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
      choose_backward(spec, logits.data(), c.ids, dweights.data(), gradient.data());
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

Routed routed(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) {
  return {.layer = layer, .plan = plan, .logits = logits, .chosen = {}, .sequences = {}};
}

class RouterLossGradient : public testing::TestWithParam<RouterLossSpec> {};

TEST_P(RouterLossGradient, EqualsFiniteDifferences) {
  constexpr int64_t kTokens = 6;
  std::vector<float> logits = draw(kTokens * kExperts, 3, 1);
  const tensor::ConstMatrix rows(logits.data(), kTokens, kExperts);
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < kTokens; ++t) ids.insert(ids.end(), {static_cast<int32_t>(t % 3), 5});
  const std::vector<float> weights(ids.size(), 0.5f);
  const ops::RoutingPlan plan = ops::make_plan(ids, weights, kTokens, 2, kExperts);
  const auto total = [&] {
    RouterLosses losses(GetParam());
    losses.plan(4, plan, rows);
    const RouterLosses::Values v = losses.values();
    return v.balance + v.z;
  };
  RouterLosses losses(GetParam());
  losses.plan(4, plan, rows);
  std::vector<float> gradient(logits.size());
  losses.add_gradient(routed(4, plan, rows), {.logits = {gradient.data(), kTokens, kExperts}});
  expect_differences(logits, gradient, total, 1e-4);
}

using Balance = RouterLossSpec::Balance;
using Score = RouterSpec::Score;
INSTANTIATE_TEST_SUITE_P(Kinds, RouterLossGradient,
                         testing::Values(RouterLossSpec{Balance::all_choices, 1, 0, Score::softmax},
                                         RouterLossSpec{Balance::all_choices, 1, 0, Score::sigmoid},
                                         RouterLossSpec{Balance::all_choices, 1, 0, Score::sqrt_softplus},
                                         RouterLossSpec{Balance::first_choice, 1, 0, Score::softmax},
                                         RouterLossSpec{Balance::none, 1, 0.3, Score::softmax},
                                         RouterLossSpec{Balance::all_choices, 0.5, 0.3, Score::softmax}),
                         [](const auto& of) { return std::to_string(of.index); });

TEST(RouterLosses, AnEvenRouterHasBalanceOneAndACollapsedOneAsManyAsExperts) {
  constexpr int64_t kTokens = 8;
  RouterLosses even({Balance::all_choices, 1, 0.001, Score::softmax}),
      collapsed({Balance::first_choice, 1, 0, Score::softmax});
  std::vector<float> flat(kTokens * kExperts, 0.0f), peaked(flat);
  std::vector<int32_t> spread, same;
  for (int64_t t = 0; t < kTokens; ++t) {
    spread.insert(spread.end(), {static_cast<int32_t>(t), static_cast<int32_t>((t + 1) % kExperts)});
    same.insert(same.end(), {3, 4});
    peaked[static_cast<size_t>(t * kExperts + 3)] = 50;
  }
  const std::vector<float> weights(spread.size(), 0.5f);
  even.plan(0, ops::make_plan(spread, weights, kTokens, 2, kExperts), {flat.data(), kTokens, kExperts});
  collapsed.plan(0, ops::make_plan(same, weights, kTokens, 2, kExperts), {peaked.data(), kTokens, kExperts});
  EXPECT_NEAR(even.values().balance, 1, 1e-12);
  EXPECT_NEAR(even.values().z, 0.001 * std::pow(std::log(8.0), 2), 1e-12);
  EXPECT_NEAR(collapsed.values().balance, kExperts, 1e-9);
}

// Micro-batches under the numbers of the whole batch.
TEST(RouterLosses, MicroBatchesAddUpWhenTheWholeBatchWasListenedTo) {
  constexpr int64_t kTokens = 6;
  const std::vector<float> logits = draw(kTokens * kExperts, 9, 1);
  const RouterLossSpec spec{Balance::all_choices, 1, 0.1, Score::softmax};
  const auto rows = [&](int64_t begin, int64_t end) {
    return tensor::ConstMatrix(logits.data() + begin * kExperts, end - begin, kExperts);
  };
  const auto plan = [&](int64_t begin, int64_t end) {
    std::vector<int32_t> ids;
    for (int64_t t = begin; t < end; ++t) ids.push_back(static_cast<int32_t>(t % 3));
    return ops::make_plan(ids, std::vector<float>(ids.size(), 1.0f), end - begin, 1, kExperts);
  };
  RouterLosses whole(spec), parts(spec);
  whole.plan(0, plan(0, kTokens), rows(0, kTokens));
  parts.plan(0, plan(0, 2), rows(0, 2)), parts.plan(0, plan(2, kTokens), rows(2, kTokens));
  std::vector<float> expected(logits.size()), found(logits.size());
  const ops::RoutingPlan all = plan(0, kTokens), first = plan(0, 2), rest = plan(2, kTokens);
  whole.add_gradient(routed(0, all, rows(0, kTokens)), {.logits = {expected.data(), kTokens, kExperts}});
  parts.add_gradient(routed(0, first, rows(0, 2)), {.logits = {found.data(), 2, kExperts}});
  parts.add_gradient(routed(0, rest, rows(2, kTokens)),
                     {.logits = {found.data() + 2 * kExperts, kTokens - 2, kExperts}});
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace coterie::layers
