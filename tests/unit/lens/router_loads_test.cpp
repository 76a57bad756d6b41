#include "lens/router_loads.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace coterie::lens {

using layers::RouterSpec, layers::SequenceRows;
namespace {

// Three tokens, two of them to expert 0, one to expert 2; by hand.
TEST(RouterLoads, FiguresOfAPlan) {
  const std::vector<int32_t> ids = {0, 0, 2};
  const std::vector<float> weights = {1, 1, 1};
  ops::RoutingPlan plan = ops::make_plan(ids, weights, 3, 1, 4);
  std::vector<float> logits(12, 0.0f);  // even: a quarter each
  logits[0] = std::log(3.0f);           // the first token: 1/2 for expert 0, 1/6 for the others
  RouterLoads loads(RouterSpec::Score::softmax);
  loads.plan(5, plan, {logits.data(), 3, 4});
  const RouterLoad& load = loads.layers().at(5);
  EXPECT_EQ(load.assignments, (std::vector<double>{2, 0, 1, 0}));
  EXPECT_EQ(load.dead(), 2);
  EXPECT_NEAR(load.max_load(), 8.0 / 3, 1e-12);
  // Loads over their mean: 8/3, 0, 4/3, 0.
  EXPECT_NEAR(load.load_cv(), std::sqrt((25.0 / 9 + 1 + 1.0 / 9 + 1) / 4), 1e-12);
  EXPECT_NEAR(load.probability[0], 0.5 + 0.25 + 0.25, 1e-6);
  EXPECT_NEAR(load.balance(), 4 * (2.0 / 3 * 1.0 / 3 + 1.0 / 3 * (1.0 / 6 + 0.5) / 3), 1e-6);
  const double even = std::log(4.0), tilted = 0.5 * std::log(2.0) + 0.5 * std::log(6.0);
  EXPECT_NEAR(load.mean_entropy(), (2 * even + tilted) / 3 / even, 1e-6);
  EXPECT_NEAR(load.squares, 2 * even * even + std::log(6.0) * std::log(6.0), 1e-5);
  loads.clear();
  EXPECT_TRUE(loads.layers().empty());
}

// Two sequences of three tokens and one, two experts of two slots each; by hand.
TEST(RouterLoads, FiguresOfAMixture) {
  const float l = std::log(3.0f);
  // Tokens share by slots: 3/6 and 1/6 each; the same by the second slot; even; 3/6 by the last.
  const std::vector<float> logits = {l, 0, 0, 0, 0, l, 0, 0, 0, 0, 0, 0, 0, 0, 0, l};
  const std::vector<SequenceRows> sequences = {{.first_row = 0, .rows = 3}, {.first_row = 3, .rows = 1}};
  RouterLoads loads(RouterSpec::Score::softmax);
  loads.mixed({.layer = 3, .experts = 2, .logits = {logits.data(), 4, 4}, .sequences = sequences});
  const RouterLoad& load = loads.layers().at(3);
  EXPECT_TRUE(load.mixture);
  EXPECT_EQ(load.tokens, 4);
  EXPECT_NEAR(load.assignments[0], 2.0 / 3 + 2.0 / 3 + 0.5 + 1.0 / 3, 1e-6);
  EXPECT_NEAR(load.assignments[0] + load.assignments[1], 4, 1e-9);
  EXPECT_NEAR(load.max_load(), load.assignments[0] / 2, 1e-9);
  const double tilted = std::log(3.0) - 2.0 / 3 * std::log(2.0), even = std::log(2.0);
  EXPECT_NEAR(load.mean_entropy(), (3 * tilted + even) / 4 / even, 1e-6);
  // What slots read of the first sequence: 3/5, 1/5, 1/5 twice, and twice evenly. One token has no choice.
  const double read = -0.6 * std::log(0.6) - 0.4 * std::log(0.2);
  EXPECT_EQ(load.slots, 4);
  EXPECT_NEAR(load.mean_reading(), (2 * read / std::log(3.0) + 2) / 4, 1e-6);
}

TEST(RouterLoads, SigmoidScoresAreSharesOfTheirSum) {
  const std::vector<int32_t> ids = {1};
  const std::vector<float> weights = {1};
  const ops::RoutingPlan plan = ops::make_plan(ids, weights, 1, 1, 2);
  const std::vector<float> logits = {0.0f, std::log(3.0f)};  // sigmoid: 1/2 and 3/4
  RouterLoads loads(RouterSpec::Score::sigmoid);
  loads.plan(0, plan, {logits.data(), 1, 2});
  EXPECT_NEAR(loads.layers().at(0).probability[0], 0.4, 1e-6);
  EXPECT_NEAR(loads.layers().at(0).probability[1], 0.6, 1e-6);
}

}  // namespace
}  // namespace coterie::lens
