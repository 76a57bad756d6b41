#include "runtime/ranks/plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "families/family.h"
#include "runtime/inspection.h"
#include "support/expect_error.h"

namespace coterie::runtime {
namespace {

TEST(RanksPlan, TheBusiestRankHasTheMeanOfTheLargestPart) {
  // Eight experts of a token on 2, 4 and 8 ranks; one part has all.
  EXPECT_NEAR(expected_largest(8, 1), 8, 1e-12);
  EXPECT_NEAR(expected_largest(8, 2), 5.09375, 1e-9);
  EXPECT_NEAR(expected_largest(8, 4), 3.5380859375, 1e-9);
  EXPECT_NEAR(expected_largest(1, 5), 1, 1e-12);
  EXPECT_NEAR(expected_largest(2, 2), 1.5, 1e-12);
}

TEST(RanksPlan, NetworksHaveNamesAndFigures) {
  EXPECT_DOUBLE_EQ(network_by_name("10g").rate, 1.15e9);
  EXPECT_DOUBLE_EQ(network_by_name("40us,2.9GB/s").latency, 40e-6);
  EXPECT_DOUBLE_EQ(network_by_name("1ms,10Gbit/s").rate, 1.25e9);
  for (const char* wrong : {"", "10", "fast", "40us", "40,1GB/s", "-1us,1GB/s", "40us,0GB/s", "nanus,1GB/s"})
    expect_error(base::ErrorKind::bad_input, {"network", "10g"}, [&] { network_by_name(wrong); });
}

TEST(RanksPlan, CountsBytesAsThePlanOfATokenHasThem) {
  models::ModelSpec spec;
  spec.width = 2048;
  layers::MoeSpec moe;
  moe.router.experts = 128, moe.router.experts_per_token = 8, moe.hidden = 768;
  models::BlockSpec block;
  block.ffn = moe;
  spec.blocks.assign(48, block);
  std::array<int64_t, models::kPlaces> bytes{}, touched{};
  bytes[static_cast<size_t>(models::Place::experts)] = 16'000,
  touched[static_cast<size_t>(models::Place::experts)] = 1000;
  bytes[static_cast<size_t>(models::Place::mixer)] = 900, touched[static_cast<size_t>(models::Place::mixer)] = 900;
  const RanksPlan plan = plan_ranks(spec, bytes, touched, 0, 512, 4, {1e-4, 1e9}, 1e6);
  EXPECT_EQ(plan.dense_bytes, 900);
  EXPECT_EQ(plan.experts_bytes, 4000);
  // 2.70 other ranks and 6 slots a token: rows of 3 kB there, since the experts are quantised, and of 8 kB back.
  EXPECT_NEAR(plan.prompt_bytes / 48, 2.6997 * 3072 + 6 * 8192 + 24, 5);
  bytes[static_cast<size_t>(models::Place::experts)] = int64_t{48} * 128 * 3 * 768 * 2048 * 2;
  const RanksPlan of_floats = plan_ranks(spec, bytes, touched, 0, 512, 4, {1e-4, 1e9}, 1e6);
  EXPECT_NEAR(of_floats.prompt_bytes / 48, (2.6997 + 6) * 8192 + 24, 5);
  EXPECT_NEAR(plan.decode_messages / 48, 2 * 2.6997, 1e-3);
  EXPECT_NEAR(plan.decode_alone, 1900 / 1e6, 1e-12);
  EXPECT_GT(plan.decode_seconds, 48 * 2e-4);
  const RanksPlan alone = plan_ranks(spec, bytes, touched, 0, 512, 1, {1e-4, 1e9}, 1e6);
  EXPECT_DOUBLE_EQ(alone.decode_seconds, alone.decode_alone);
  EXPECT_EQ(alone.decode_messages, 0);
}

/// Qwen3-30B-A3B's shape in 4.5 bits: 48 layers, 128 experts of which 8.
struct Planned {
  models::ModelSpec spec;
  std::array<int64_t, models::kPlaces> bytes{}, touched{};
  Planned() {
    spec.width = 2048, spec.vocabulary = 151'936;
    layers::AttentionSpec attention;
    attention.heads = 32, attention.kv_heads = 4, attention.head_dim = attention.value_dim = 128;
    layers::MoeSpec moe;
    moe.router.experts = 128, moe.router.experts_per_token = 8, moe.hidden = 768;
    models::BlockSpec block;
    block.mixer = attention, block.ffn = moe;
    spec.blocks.assign(48, block);
    bytes[static_cast<size_t>(models::Place::experts)] = 16'300'000'000;
    touched[static_cast<size_t>(models::Place::experts)] = 1'020'000'000;
    bytes[static_cast<size_t>(models::Place::mixer)] = touched[static_cast<size_t>(models::Place::mixer)] = 880'000'000;
  }
  auto plans(int ranks, const Network& network) const {
    return plan_splits({spec, bytes, touched, std::vector<int64_t>(48, 350'000'000), 3'300'000'000, 98'304, 512}, ranks,
                       network, {40e9, 2e12});
  }
};

TEST(SplitPlans, AreOneMachineOnOneRank) {
  for (const SplitPlan& plan : Planned().plans(1, network_by_name("10g"))) {
    EXPECT_NEAR(plan.decode_seconds, Planned().plans(1, network_by_name("1g")).front().decode_seconds, 1e-12);
    EXPECT_EQ(plan.decode_bytes, 0);
  }
}

// The orders of the published latencies: rows win where the network is fast, layers cost a hop a rank.
TEST(SplitPlans, KnowWhatANetworkIsGoodFor) {
  const Planned model;
  const double alone = model.plans(1, network_by_name("10g")).front().decode_seconds;
  const auto fast = model.plans(4, network_by_name("rdma")), slow = model.plans(4, network_by_name("1g"));
  EXPECT_GT(alone / fast[1].decode_seconds, 2.5);
  EXPECT_LT(alone / slow[1].decode_seconds, 1);
  EXPECT_NEAR(slow[2].decode_seconds / alone, 1, 0.02);
  EXPECT_LT(fast[1].memory, fast[0].memory);
  EXPECT_EQ(best_split(fast, int64_t{1} << 40).split, Split::rows);
  EXPECT_NE(best_split(slow, int64_t{1} << 40).split, Split::rows);
  EXPECT_EQ(&best_split(fast, 0), &*std::min_element(fast.begin(), fast.end(), [](const auto& a, const auto& b) {
    return a.memory < b.memory;
  })) << "none fits: the smallest";
}

}  // namespace
}  // namespace coterie::runtime
