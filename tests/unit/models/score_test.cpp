#include "models/score.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/moe/plan.h"

namespace coterie::models {
namespace {

TEST(Score, CrossEntropyByHand) {
  const std::vector<float> logits = {0, std::log(3.0f), 0, 1000, 1000, 1000, 5, 5, 5};
  const std::vector<int32_t> ids = {0, 1, 2};
  CrossEntropy entropy;
  entropy.add({logits.data(), 3, 3}, ids);
  EXPECT_EQ(entropy.predictions(), 2);
  EXPECT_NEAR(entropy.mean(), (std::log(5.0 / 3.0) + std::log(3.0)) / 2, 1e-7);
  EXPECT_NEAR(entropy.standard_error(), (std::log(3.0) - std::log(5.0 / 3.0)) / 2, 1e-7);
}

TEST(Score, BalancedRoutersLoseK) {
  const std::vector<float> logits(4 * 4, 0.0f);  // uniform probabilities
  const std::vector<int32_t> ids = {0, 1, 2, 3, 0, 1, 2, 3};
  const std::vector<float> weights(8, 0.5f);
  LoadBalance balance;
  for (int layer = 0; layer < 3; ++layer)
    balance.plan(layer, ops::make_plan(ids, weights, 4, 2, 4), {logits.data(), 4, 4});
  EXPECT_NEAR(balance.loss(), 2.0, 1e-12);
}

TEST(Score, ACollapsedRouterLosesKTimesE) {
  std::vector<float> logits;
  for (int t = 0; t < 5; ++t) logits.insert(logits.end(), {200.0f, 0.0f, 0.0f, 0.0f});
  const std::vector<int32_t> ids(5, 0);
  const std::vector<float> weights(5, 1.0f);
  LoadBalance balance;
  balance.plan(0, ops::make_plan(ids, weights, 5, 1, 4), {logits.data(), 5, 4});
  EXPECT_NEAR(balance.loss(), 4.0, 1e-9);
}

}  // namespace
}  // namespace coterie::models
