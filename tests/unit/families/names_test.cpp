#include <gtest/gtest.h>

#include "families/names/name_table.h"

namespace coterie::families {
namespace {

TEST(Names, PathsBecomePatterns) {
  const PathPattern moe = path_pattern("blocks.31.moe.experts.gate");
  EXPECT_EQ(moe.pattern, "blocks.{layer}.moe.experts.gate");
  EXPECT_EQ(moe.layer, 31);
  EXPECT_EQ(path_pattern("final_norm").pattern, "final_norm");
  EXPECT_EQ(path_pattern("final_norm").layer, -1);
}

TEST(Names, PatternsBecomeNames) {
  EXPECT_EQ(expand("model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", 3, 17),
            "model.layers.3.mlp.experts.17.up_proj.weight");
  EXPECT_EQ(expand("lm_head.weight", -1), "lm_head.weight");
}

TEST(Names, InertOnesAreMatchedWhole) {
  NameTable table;
  table.inert = {"model.layers.{layer}.self_attn.rotary_emb.inv_freq", "mtp.*"};
  EXPECT_TRUE(table.is_inert("model.layers.12.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(table.is_inert("model.layers.x.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(table.is_inert("model.layers..self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(table.is_inert("model.layers.12.self_attn.rotary_emb.inv_freq2"));
  EXPECT_TRUE(table.is_inert("mtp.layers.0.weight"));
  EXPECT_FALSE(table.is_inert("amtp.layers.0.weight"));
}

}  // namespace
}  // namespace coterie::families
