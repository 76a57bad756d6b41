#include "ops/moe/plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"

namespace coterie::ops {
namespace {

TEST(Plan, SortsByExpertThenTokenAndRemembersTheOrderOfChoice) {
  const std::vector<int32_t> ids = {2, 0, 0, 2, 1, -1};
  const std::vector<float> weights = {0.7f, 0.3f, 0.6f, 0.4f, 1.0f, 9.0f};
  const RoutingPlan plan = make_plan(ids, weights, 3, 2, 4);
  EXPECT_EQ(plan.tokens, 3);
  EXPECT_EQ(plan.experts(), 4);
  EXPECT_EQ(plan.expert_offset, (std::vector<int32_t>{0, 2, 3, 5, 5}));
  EXPECT_EQ(plan.slot_token, (std::vector<int32_t>{0, 1, 2, 0, 1}));
  EXPECT_EQ(plan.slot_weight, (std::vector<float>{0.3f, 0.6f, 1.0f, 0.7f, 0.4f}));
  EXPECT_EQ(plan.token_offset, (std::vector<int32_t>{0, 2, 4, 5}));
  EXPECT_EQ(plan.token_slot, (std::vector<int32_t>{3, 0, 1, 4, 2}));
}

TEST(Plan, HoldsEveryChoiceOnce) {
  base::Rng rng(1);
  const int64_t tokens = 57, k = 3, experts = 11;
  std::vector<int32_t> ids(tokens * k);
  std::vector<float> weights(tokens * k);
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(rng.below(experts + 1)) - 1, weights[i] = rng.uniform();
  const RoutingPlan plan = make_plan(ids, weights, tokens, k, experts);
  for (int64_t e = 0; e < experts; ++e) EXPECT_TRUE(std::ranges::is_sorted(plan.tokens_of(e)));
  for (size_t t = 0; t < tokens; ++t) {
    size_t at = static_cast<size_t>(plan.token_offset[t]);
    for (size_t i = t * k; i < (t + 1) * k; ++i) {
      if (ids[i] < 0) continue;
      const size_t slot = static_cast<size_t>(plan.token_slot[at++]);
      EXPECT_EQ(plan.slot_token[slot], static_cast<int32_t>(t));
      EXPECT_EQ(plan.slot_weight[slot], weights[i]);
      const size_t e = static_cast<size_t>(ids[i]);
      EXPECT_TRUE(plan.expert_offset[e] <= static_cast<int32_t>(slot) &&
                  static_cast<int32_t>(slot) < plan.expert_offset[e + 1]);
    }
    EXPECT_EQ(at, static_cast<size_t>(plan.token_offset[t + 1]));
  }
}

TEST(Plan, OfADenseLayerIsTheOneExpertPlan) {
  RoutingPlan storage;
  for (int64_t tokens : {4, 1, 0, 1}) {
    const RoutingPlan made = make_plan(std::vector<int32_t>(static_cast<size_t>(tokens), 0),
                                       std::vector<float>(static_cast<size_t>(tokens), 1.0f), tokens, 1, 1);
    const RoutingPlan& dense = dense_plan(tokens, storage);
    EXPECT_EQ(dense.tokens, made.tokens);
    EXPECT_EQ(dense.expert_offset, made.expert_offset);
    EXPECT_EQ(dense.slot_token, made.slot_token);
    EXPECT_EQ(dense.slot_weight, made.slot_weight);
    EXPECT_EQ(dense.token_offset, made.token_offset);
    EXPECT_EQ(dense.token_slot, made.token_slot);
  }
}

TEST(Plan, RefusesWhatItCannotPlace) {
  const std::vector<float> weights = {1, 1};
  EXPECT_THROW(make_plan(std::vector<int32_t>{0, 4}, weights, 2, 1, 4), base::Error);
  EXPECT_THROW(make_plan(std::vector<int32_t>{0, -2}, weights, 2, 1, 4), base::Error);
  EXPECT_THROW(make_plan(std::vector<int32_t>{0}, weights, 2, 1, 4), base::Error);
}

}  // namespace
}  // namespace coterie::ops
