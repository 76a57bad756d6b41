#include "layers/moe/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace coterie::layers {
namespace {

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Choice choose_one(const RouterSpec& spec, const std::vector<float>& logits, uint64_t key = 0, int64_t position = 0) {
  Choice choice{std::vector<int32_t>(static_cast<size_t>(spec.experts_per_token)),
                std::vector<float>(static_cast<size_t>(spec.experts_per_token))};
  std::vector<float> scores(logits.size());
  choose(spec, logits.data(), key, 0, position, scores.data(), choice.ids.data(), choice.weights.data());
  return choice;
}

/// The rule again, in f64 and by sorting, independent of the code under test.
struct Reference {
  std::vector<int32_t> ids;
  std::vector<double> weights;
};
Reference reference(const RouterSpec& spec, const std::vector<float>& logits) {
  const auto score = [&](std::vector<double> x) {
    if (spec.score == RouterSpec::Score::sigmoid) {
      for (double& v : x) v = 1 / (1 + std::exp(-v));
      return x;
    }
    const double top = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (double& v : x) sum += v = std::exp(v - top);
    for (double& v : x) v /= sum;
    return x;
  };
  const std::vector<double> raw(logits.begin(), logits.end());
  const bool before = spec.order == RouterSpec::Order::score_then_select;
  const std::vector<double> keys = before ? score(raw) : raw;
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return keys[static_cast<size_t>(a)] > keys[static_cast<size_t>(b)]; });
  Reference result;
  result.ids.assign(order.begin(), order.begin() + spec.experts_per_token);
  for (const int32_t id : result.ids) result.weights.push_back(keys[static_cast<size_t>(id)]);
  if (!before) result.weights = score(result.weights);
  const double sum = std::accumulate(result.weights.begin(), result.weights.end(), 0.0);
  for (double& w : result.weights) w = (spec.renormalise ? w / sum : w) * static_cast<double>(spec.scale);
  return result;
}

TEST(Router, EveryCombinationEqualsItsDefinition) {
  base::Rng rng(1);
  for (const auto score : {RouterSpec::Score::softmax, RouterSpec::Score::sigmoid})
    for (const auto order : {RouterSpec::Order::score_then_select, RouterSpec::Order::select_then_score})
      for (const bool renormalise : {false, true})
        for (const float scale : {1.0f, 2.5f})
          for (const int64_t experts : {1, 2, 7, 64, 500})
            for (const int64_t k : {int64_t{1}, int64_t{2}, int64_t{8}, experts}) {
              if (k > experts) continue;
              RouterSpec spec{.experts = experts, .experts_per_token = k, .score = score, .order = order};
              spec.renormalise = renormalise, spec.scale = scale;
              for (int round = 0; round < 8; ++round) {
                std::vector<float> logits(static_cast<size_t>(experts));
                for (float& v : logits) v = 2 * rng.normal();
                const Choice found = choose_one(spec, logits);
                const Reference expected = reference(spec, logits);
                ASSERT_EQ(found.ids, expected.ids) << experts << " experts, k " << k;
                for (size_t i = 0; i < found.weights.size(); ++i)
                  ASSERT_NEAR(found.weights[i], expected.weights[i], 1e-6 * std::max(1.0, expected.weights[i]));
              }
            }
}

TEST(Router, TiesGoToTheLowerIndex) {
  RouterSpec spec{.experts = 6, .experts_per_token = 3};
  EXPECT_EQ(choose_one(spec, {1, 2, 2, 1, 2, 2}).ids, (std::vector<int32_t>{1, 2, 4}));
  EXPECT_EQ(choose_one(spec, std::vector<float>(6, 0.0f)).ids, (std::vector<int32_t>{0, 1, 2}));
}

TEST(Router, OneExpertRenormalisedWeighsOne) {
  RouterSpec spec{.experts = 4, .experts_per_token = 1};
  spec.renormalise = true;
  EXPECT_EQ(choose_one(spec, {0.1f, 0.3f, -2, 0}).weights[0], 1.0f);
}

TEST(Router, LogitsOfAnySizeGiveFiniteWeights) {
  RouterSpec spec{.experts = 4, .experts_per_token = 2};
  spec.renormalise = true;
  for (const std::vector<float>& logits : {std::vector<float>{1e30f, -1e30f, 0, 3}, {-1e30f, -1e30f, -1e30f, -1e30f}}) {
    const Choice choice = choose_one(spec, logits);
    for (const float w : choice.weights) EXPECT_TRUE(std::isfinite(w));
    EXPECT_NE(choice.ids[0], choice.ids[1]);
  }
}

// A NaN must not make the choice repeat an expert or leave one unset.
TEST(Router, NanLogitsStillNameExperts) {
  RouterSpec spec{.experts = 5, .experts_per_token = 3};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto order : {RouterSpec::Order::score_then_select, RouterSpec::Order::select_then_score}) {
    spec.order = order;
    std::vector<int32_t> ids = choose_one(spec, {nan, 1, nan, 2, nan}).ids;
    std::sort(ids.begin(), ids.end());
    EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
    EXPECT_GE(ids.front(), 0);
    EXPECT_LT(ids.back(), 5);
  }
}

TEST(Router, SpecsThatCannotBeAreRefused) {
  const RouterSpec good{.experts = 8, .experts_per_token = 2};
  EXPECT_NO_THROW(check(good, "test"));
  for (const auto& change : std::initializer_list<void (*)(RouterSpec&)>{
           [](RouterSpec& s) { s.experts = 0; }, [](RouterSpec& s) { s.experts_per_token = 0; },
           [](RouterSpec& s) { s.experts_per_token = 9; }, [](RouterSpec& s) { s.temperature = 0; },
           [](RouterSpec& s) { s.temperature = std::numeric_limits<float>::infinity(); },
           [](RouterSpec& s) { s.scale = std::numeric_limits<float>::quiet_NaN(); }}) {
    RouterSpec spec = good;
    change(spec);
    EXPECT_THROW(check(spec, "test"), base::Error);
  }
}

}  // namespace
}  // namespace coterie::layers
