#include "surgery/moe_tensor.h"

#include <gtest/gtest.h>

namespace coterie::surgery {
namespace {

using Kind = MoeTensor::Kind;

TEST(MoeTensor, NamesEachPartOfAMoe) {
  const MoeTensor experts = moe_tensor("blocks.3.moe.experts.down");
  EXPECT_EQ(experts.kind, Kind::expert);
  EXPECT_EQ(experts.layer, 3);
  EXPECT_EQ(experts.part, Part::down);
  EXPECT_FALSE(experts.bias);

  const MoeTensor biases = moe_tensor("blocks.0.moe.experts.up.bias");
  EXPECT_EQ(biases.kind, Kind::expert);
  EXPECT_EQ(biases.part, Part::up);
  EXPECT_TRUE(biases.bias);

  EXPECT_EQ(moe_tensor("blocks.1.moe.shared.gate").kind, Kind::shared);
  EXPECT_EQ(moe_tensor("blocks.1.moe.shared_gate").kind, Kind::shared_gate);
  EXPECT_EQ(moe_tensor("blocks.1.moe.router").name, "router");
  EXPECT_EQ(moe_tensor("blocks.1.moe.router.noise").name, "router.noise");
}

TEST(MoeTensor, WhatIsNoPartOfAMoeIsOutside) {
  for (const char* path : {"embedding", "head", "final_norm", "blocks.2.attention.q", "blocks.2.ffn.up"})
    EXPECT_EQ(moe_tensor(path).kind, Kind::outside) << path;
}

}  // namespace
}  // namespace coterie::surgery
