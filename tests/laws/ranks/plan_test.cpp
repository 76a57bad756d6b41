#include "runtime/ranks/plan.h"

#include <gtest/gtest.h>

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
  // 2.70 other ranks and 6 slots a token: 8 kB rows.
  EXPECT_NEAR(plan.prompt_bytes / 48, (2.6997 + 6) * 8192 + 24, 5);
  EXPECT_NEAR(plan.decode_messages / 48, 2 * 2.6997, 1e-3);
  EXPECT_NEAR(plan.decode_alone, 1900 / 1e6, 1e-12);
  EXPECT_GT(plan.decode_seconds, 48 * 2e-4);
  const RanksPlan alone = plan_ranks(spec, bytes, touched, 0, 512, 1, {1e-4, 1e9}, 1e6);
  EXPECT_DOUBLE_EQ(alone.decode_seconds, alone.decode_alone);
  EXPECT_EQ(alone.decode_messages, 0);
}

}  // namespace
}  // namespace coterie::runtime
