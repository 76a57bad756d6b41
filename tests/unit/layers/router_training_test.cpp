#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "base/rng.h"
#include "layers/moe/capacity.h"
#include "layers/moe/router.h"
#include "layers/moe/scores.h"
#include "router_bench.h"

// Routers in training: noise, jitter, capacity, a hidden layer, sums; the gradient of the whole router by differences.
namespace coterie::layers {
namespace {

RouterSpec top(int64_t experts, int64_t k) { return {.experts = experts, .experts_per_token = k}; }
RouterSpec noisy(int64_t experts, int64_t k) {
  RouterSpec spec = top(experts, k);
  spec.noise = spec.noise_bias = spec.bias = true, spec.order = RouterSpec::Order::select_then_score;
  return spec;
}
RouterSpec limited(RouterSpec spec, double factor, bool next_best,
                   RouterSpec::Capacity::Order order = RouterSpec::Capacity::Order::position) {
  spec.capacity = RouterSpec::Capacity{factor, order, next_best};
  return spec;
}

TEST(RouterTraining, NoiseJitterAndCapacityActInTrainingOnly) {
  RouterSpec all = limited(noisy(6, 2), 1, true), plain = top(6, 2);
  all.jitter = 0.3f;
  plain.order = all.order, plain.bias = true;
  TestRouter a(all), b(plain);
  for (const char* path : {"router", "router.bias"})
    std::copy_n(a.weights[path].values, a.weights[path].count, b.weights[path].values);
  b.x = a.x;
  EXPECT_EQ(slots(a.plan(false)), slots(b.plan(true)));
  EXPECT_NE(slots(a.plan(true)), slots(b.plan(true)));
  RouterSpec asked = all;
  asked.always = {true, true, true};
  TestRouter c(asked);
  EXPECT_EQ(slots(c.plan(false)), slots(a.plan(true)));
}

// H = h + normal * softplus(n); the weights are a softmax over the K largest of H. Draws are N(0, 1).
TEST(RouterTraining, NoisyTopKIsShazeersFormula) {
  TestRouter r(noisy(6, 2));
  Watch seen;
  double sum = 0, squares = 0, fourth = 0, count = 0;
  for (int32_t round = 0; round < 60; ++round) {
    for (int32_t t = 0; t < kTokens; ++t) r.positions[static_cast<size_t>(t)] = t + 100 * round;
    const auto found = slots(r.plan(true, &seen));
    for (size_t i = 0; i < seen.logits.size(); ++i) {
      const double n = (static_cast<double>(seen.noisy[i]) - static_cast<double>(seen.logits[i])) /
                       softplus(static_cast<double>(seen.noise[i]));
      sum += n, squares += n * n, fourth += n * n * n * n, ++count;
    }
    for (size_t t = 0; t < kTokens; ++t) {
      std::vector<int64_t> order = {0, 1, 2, 3, 4, 5};
      const float* const h = seen.noisy.data() + t * 6;
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return h[a] > h[b]; });
      const double a = std::exp(static_cast<double>(h[order[0]])), b = std::exp(static_cast<double>(h[order[1]]));
      EXPECT_EQ(std::get<1>(found[2 * t]), order[0]);
      EXPECT_EQ(std::get<1>(found[2 * t + 1]), order[1]);
      EXPECT_NEAR(std::get<2>(found[2 * t]), a / (a + b), 1e-6);
      EXPECT_NEAR(std::get<2>(found[2 * t + 1]), b / (a + b), 1e-6);
    }
  }
  EXPECT_NEAR(sum / count, 0, 5 / std::sqrt(count));
  EXPECT_NEAR(squares / count, 1, 5 * std::sqrt(2 / count));
  EXPECT_NEAR(fourth / count, 3, 5 * std::sqrt(96 / count));
}

// Random numbers are those of the sample, the position and the layer: rows by themselves get what they get in a batch.
TEST(RouterTraining, DrawsDoNotDependOnTheBatchOrTheThreads) {
  RouterSpec spec = noisy(6, 2);
  spec.jitter = 0.2f;
  TestRouter r(spec);
  const auto whole = slots(r.plan(true));
  EXPECT_EQ(slots(r.plan(true, nullptr, 3)), whole);
  auto parts = slots(r.plan(true, nullptr, 1, 0, 9));
  for (const auto& cut : {slots(r.plan(true, nullptr, 1, 9, 14), 9), slots(r.plan(true, nullptr, 2, 14, kTokens), 14)})
    parts.insert(parts.end(), cut.begin(), cut.end());
  EXPECT_EQ(parts, whole);
}

TEST(RouterTraining, JitterMovesLogitsByItsFactorAndNoMore) {
  RouterSpec spec = top(6, 2);
  spec.jitter = 0.1f;
  TestRouter r(spec);
  // One input at a time, so that a logit over what it is without jitter is the factor.
  std::fill(r.x.begin(), r.x.end(), 0.0f);
  for (size_t t = 0; t < kTokens; ++t) r.x[t * kWidth + t % kWidth] = 1;
  Watch with, without;
  r.plan(true, &with), r.plan(false, &without);
  std::set<float> factors;
  for (size_t t = 0; t < kTokens; ++t) {
    const float factor = with.logits[t * 6] / without.logits[t * 6];
    EXPECT_GE(factor, 0.8999f);
    EXPECT_LE(factor, 1.1001f);
    EXPECT_NEAR(with.logits[t * 6 + 3] / without.logits[t * 6 + 3], factor, 1e-5);
    factors.insert(factor);
  }
  EXPECT_EQ(factors.size(), static_cast<size_t>(kTokens));
}

// The law: with overflow, an assignment is dropped only when every eligible expert that the token has not got is full.
TEST(RouterTraining, WithOverflowNothingIsDroppedWhileAnEligibleExpertHasRoom) {
  int64_t overflowed = 0, dropped = 0;
  for (const double factor : {0.3, 0.7, 1.0, 1.5})
    for (const int64_t k : {1, 2, 3})
      for (const auto order : {RouterSpec::Capacity::Order::position, RouterSpec::Capacity::Order::probability})
        for (const bool grouped : {false, true}) {
          RouterSpec spec = limited(top(6, k), factor, true, order);
          if (grouped) spec.groups = 2, spec.groups_kept = 1;
          TestRouter r(spec);
          // Expert 0 is everybody's favourite.
          for (float& v : r.x) v = std::abs(v);
          for (int64_t i = 0; i < kWidth; ++i) r.weights["router"].values[i] = 1;
          Watch seen;
          const ops::RoutingPlan plan = r.plan(true, &seen);
          const int64_t capacity = std::max<int64_t>(
              1, static_cast<int64_t>(std::ceil(factor * kTokens * static_cast<double>(k) / 6 - 1e-9)));
          EXPECT_EQ(capacity_of(spec, kTokens), capacity);
          std::set<int64_t> with_room;
          for (int64_t e = 0; e < 6; ++e) {
            EXPECT_LE(std::ssize(plan.tokens_of(e)), capacity);
            if (std::ssize(plan.tokens_of(e)) < capacity) with_room.insert(e);
          }
          std::map<int32_t, std::set<int64_t>> got;
          for (const auto& [t, e, w] : slots(plan)) EXPECT_TRUE(got[t].insert(e).second) << "twice the same expert";
          for (const int32_t t : plan.dropped)
            for (const int64_t e : with_room) {
              const bool eligible = !grouped || e / 3 == seen.chosen[static_cast<size_t>(t * k)] / 3;
              EXPECT_TRUE(!eligible || got[t].count(e)) << "token " << t << " could have gone to " << e;
            }
          EXPECT_EQ(plan.slots() + std::ssize(plan.dropped), kTokens * k);
          EXPECT_TRUE(plan.dropped.empty() || grouped || factor < 1 || k > 1);
          overflowed += plan.overflowed, dropped += std::ssize(plan.dropped);
        }
  EXPECT_GT(overflowed, 100);
  EXPECT_GT(dropped, 100);
}

TEST(RouterTraining, CapacityDropsTheLastByPositionOrTheLeastProbable) {
  TestRouter free(top(4, 1));
  for (int64_t i = 0; i < kWidth; ++i) free.weights["router"].values[i] = 0;
  const auto wanted = slots(free.plan(true));
  for (const auto order : {RouterSpec::Capacity::Order::position, RouterSpec::Capacity::Order::probability}) {
    TestRouter r(limited(top(4, 1), 0.5, false, order));
    std::copy_n(free.weights["router"].values, free.weights["router"].count, r.weights["router"].values);
    const ops::RoutingPlan plan = r.plan(true);
    EXPECT_EQ(plan.overflowed, 0);
    EXPECT_FALSE(plan.dropped.empty());
    for (int64_t e = 0; e < 4; ++e) {
      auto of_expert = wanted;
      std::erase_if(of_expert, [&](const auto& s) { return std::get<1>(s) != e; });
      if (order == RouterSpec::Capacity::Order::probability)
        std::stable_sort(of_expert.begin(), of_expert.end(),
                         [](const auto& a, const auto& b) { return std::get<2>(a) > std::get<2>(b); });
      if (of_expert.size() > 3) of_expert.resize(3);  // ceil(0.5 * 24 / 4)
      std::sort(of_expert.begin(), of_expert.end());
      auto found = slots(plan);
      std::erase_if(found, [&](const auto& s) { return std::get<1>(s) != e; });
      EXPECT_EQ(found, of_expert) << e;
    }
  }
}

// A capacity that all fit in is dropless, to the bit; first choices go before second ones.
TEST(RouterTraining, RoomForAllIsDropless) {
  TestRouter free(top(5, 2)), roomy(limited(top(5, 2), 5, true));
  EXPECT_EQ(slots(free.plan(true)), slots(roomy.plan(true)));
}

TEST(RouterTraining, SummedOutputsWeighOne) {
  RouterSpec spec = limited(top(5, 2), 0.8, true, RouterSpec::Capacity::Order::probability);
  spec.combine = RouterSpec::Combine::sum;
  TestRouter r(spec);
  for (const auto& [t, e, w] : slots(r.plan(true))) EXPECT_EQ(w, 1.0f);
}

/// Σ over slots of a(token, expert) * weight, and its gradient by everything the router has and reads.
class RouterGradientLaw : public testing::TestWithParam<int> {
 public:
  static std::vector<RouterSpec> specs() {
    std::vector<RouterSpec> all = {noisy(6, 2), limited(noisy(6, 2), 0.8, false), limited(noisy(6, 2), 0.8, true)};
    RouterSpec hidden = top(6, 2);
    hidden.hidden = 7, hidden.bias = true, hidden.jitter = 0.2f, hidden.renormalise = true;
    all.push_back(hidden);
    RouterSpec deep_noise = noisy(6, 3);
    deep_noise.hidden = 5, deep_noise.score = RouterSpec::Score::sigmoid, deep_noise.jitter = 0.1f;
    all.push_back(limited(deep_noise, 1, true, RouterSpec::Capacity::Order::probability));
    RouterSpec drawn = limited(top(6, 2), 1, true);
    drawn.selection = RouterSpec::Selection::sample, drawn.temperature = 0.8f;
    all.push_back(drawn);
    return all;
  }
};

TEST_P(RouterGradientLaw, EqualsFiniteDifferences) { expect_gradients(specs()[static_cast<size_t>(GetParam())]); }

INSTANTIATE_TEST_SUITE_P(Kinds, RouterGradientLaw,
                         testing::Range(0, static_cast<int>(RouterGradientLaw::specs().size())));

}  // namespace
}  // namespace coterie::layers
