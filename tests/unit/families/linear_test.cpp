#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"
#include "families/config/config_writer.h"
#include "families/family.h"
#include "families/shapes.h"
#include "models/account.h"
#include "support/expect_error.h"
#include "tiny_model.h"

// What the configs of families with linear attention, short convolutions and blocks of one sublayer say, beyond what
// the parity fixtures compute.
namespace coterie::families {
namespace {

using base::ErrorKind;
using base::Json;
using layers::DeltaRuleSpec;

Json tiny_config(const std::string& family, const Json& changes) {
  Json json = tiny::configs().at(family);
  json.update(changes);
  return json;
}
ModelSpec read(const Json& json) { return read_config(json, "test", true); }
void expect_refused(const std::string& family, const Json& changes, const std::string& word) {
  SCOPED_TRACE(family + ": " + changes.dump());
  ErrorKind kind = ErrorKind::internal;
  std::string text;
  try {
    read(tiny_config(family, changes));
  } catch (const base::Error& error) {
    kind = error.kind(), text = error.what();
  }
  EXPECT_TRUE(kind == ErrorKind::unsupported || kind == ErrorKind::bad_input) << text;
  EXPECT_NE(text.find(word), std::string::npos) << text;
}

// By hand: embeddings, head and norms; per layer its mixer; 256 or 512 experts of three matrices, the router, the
// shared expert with its gate.
TEST(LinearAttention, AccountsForPublishedSizes) {
  const int64_t d = 2048, conv = 2 * 16 * 128 + 32 * 128, values = 32 * 128;
  const int64_t linear = conv * d + values * d + 2 * 32 * d + 4 * conv + 2 * 32 + 128 + values * d;
  const int64_t attention = 3 * 16 * 256 * d + 2 * 2 * 256 * d + 2 * 256, norms = 2 * d;
  const auto mixture = [&](int64_t all, int64_t experts) { return all * d + (3 * experts + 3) * 512 * d + d; };
  const models::Account moe = account(shape("qwen3.5-35b-a3b"));
  const auto qwen35 = [&](int64_t experts) {
    return 2 * 248320 * d + d + 30 * linear + 10 * attention + 40 * (mixture(256, experts) + norms);
  };
  EXPECT_EQ(moe.total(), qwen35(256));
  EXPECT_EQ(moe.total(), 34'660'610'688);
  EXPECT_EQ(moe.total_active(), qwen35(8));
  // The last 3 inputs of the convolution and 128 × 128 for each of 32 heads, f32, in 30 layers.
  EXPECT_EQ(moe.state_bytes, 30 * 4 * (3 * conv + 32 * 128 * 128));
  EXPECT_EQ(moe.cache_bytes_per_token, 10 * 2 * 2 * 256 * 2);
  const models::Account next = account(shape("qwen3-next-80b-a3b"));
  EXPECT_EQ(next.total(), 79'674'391'296);
  EXPECT_EQ(next.total_active(), 3'874'929'408);
  const models::Account lfm2 = account(shape("lfm2-8b-a1b"));
  EXPECT_EQ(lfm2.total(), 8'339'929'856);
  EXPECT_EQ(lfm2.total_active(), 1'557'740'288);
}

TEST(LinearAttention, EveryNthLayerAttends) {
  const ModelSpec spec = shape("qwen3.5-35b-a3b");
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    EXPECT_EQ(std::holds_alternative<DeltaRuleSpec>(spec.blocks[i].mixer), i % 4 != 3) << i;
}

TEST(LinearAttention, WhatIsNotComputedIsRefusedByName) {
  expect_refused("qwen3_next", {{"attn_output_gate", false}}, "attn_output_gate");
  expect_refused("qwen3_next", {{"layer_types", {"linear_attention", "conv", "full_attention"}}}, "conv");
  expect_refused("qwen3_5_text", {{"full_attention_interval", 0}}, "full_attention_interval");
  expect_refused("qwen3_5_text", {{"linear_num_value_heads", 3}}, "not a multiple");
  expect_refused("kimi_linear", {{"mla_use_nope", false}}, "mla_use_nope");
  expect_refused("kimi_linear", {{"moe_layer_freq", 2}}, "moe_layer_freq");
  expect_refused("kimi_linear", {{"mlp_layer_types", {"dense", "moe", "sparse"}}}, "mlp_layer_types");
  expect_refused("bailing_hybrid", {{"expert_swiglu_limit_list", {0, 7}}}, "expert_swiglu_limit_list");
  expect_refused("bailing_hybrid", {{"kda_lower_bound", 1}}, "kda_lower_bound");
  expect_refused("lfm2_moe", {{"layer_types", {"conv", "mamba", "conv"}}}, "mamba");
  expect_refused("nemotron_h", {{"layers_block_type", {"mamba", "swa"}}}, "swa");
  expect_refused("afmoe", {{"route_norm", false}}, "route_norm");
  Json ling = tiny_config("bailing_hybrid", Json::object());
  ling.erase("kda_lower_bound");
  EXPECT_THROW(read(ling), base::Error);  // Ling 2.6
}

TEST(LinearAttention, NemotronsProjectionsToTheLatentHaveBiasesWithTheOthers) {
  const auto shared = [](bool bias) {
    int64_t n = 0;
    for (const auto& layer : models::account(read(tiny_config("nemotron_h", {{"mlp_bias", bias}}))).layers)
      n += layer.held[static_cast<size_t>(layers::Place::shared_experts)];
    return n;
  };
  const ModelSpec spec = read(tiny_config("nemotron_h", {{"mlp_bias", true}}));
  const layers::MoeSpec& moe = *first_moe(spec);
  ASSERT_GT(moe.latent, 0);
  const int64_t mixtures = std::count_if(spec.blocks.begin(), spec.blocks.end(), [](const BlockSpec& block) {
    return std::holds_alternative<layers::MoeSpec>(block.ffn);
  });
  EXPECT_EQ(shared(true) - shared(false), mixtures * (moe.latent + moe.shared_hidden + 2 * spec.width));
}

TEST(LinearAttention, PublishedKimiListsLayersFromOne) {
  Json json = tiny_config("kimi_linear", {{"linear_attn_config",
                                           {{"full_attn_layers", {2}},
                                            {"kda_layers", {1, 3}},
                                            {"head_dim", 10},
                                            {"num_heads", 5},
                                            {"short_conv_kernel_size", 3}}}});
  json.erase("layer_types");
  const ModelSpec spec = read(json);
  const auto& delta = std::get<DeltaRuleSpec>(spec.blocks[0].mixer);
  EXPECT_TRUE(std::holds_alternative<layers::LatentAttentionSpec>(spec.blocks[1].mixer));
  EXPECT_TRUE(std::holds_alternative<DeltaRuleSpec>(spec.blocks[2].mixer));
  EXPECT_EQ(delta.value_heads, 5);
  EXPECT_EQ(delta.key_dim, 10);
  EXPECT_EQ(delta.gate_rank, 10);
  EXPECT_EQ(delta.conv_width, 3);
}

TEST(LinearAttention, NemotronsLayersMayBeLetters) {
  Json json = tiny_config("nemotron_h", {{"hybrid_override_pattern", "M-*E"}});
  json.erase("layers_block_type");
  const ModelSpec spec = read(json);
  ASSERT_EQ(spec.blocks.size(), 4u);
  EXPECT_TRUE(std::holds_alternative<layers::Mamba2Spec>(spec.blocks[0].mixer));
  EXPECT_TRUE(std::holds_alternative<layers::NoMixerSpec>(spec.blocks[1].mixer));
  EXPECT_TRUE(std::holds_alternative<layers::DenseFfnSpec>(spec.blocks[1].ffn));
  EXPECT_TRUE(std::holds_alternative<layers::AttentionSpec>(spec.blocks[2].mixer));
  EXPECT_TRUE(std::holds_alternative<layers::NoFfnSpec>(spec.blocks[2].ffn));
  EXPECT_TRUE(std::holds_alternative<layers::MoeSpec>(spec.blocks[3].ffn));
}

TEST(LinearAttention, TheTextOfAMultimodalModelIsRead) {
  const Json text = tiny_config("qwen3_5_moe_text", Json::object());
  const Json whole = {{"model_type", "qwen3_5_moe"}, {"text_config", text}, {"vision_config", Json::object()}};
  const ModelSpec spec = read(whole);
  EXPECT_EQ(spec.family.model_type, "qwen3_5_moe_text");
  EXPECT_NE(spec.warnings.front().find("images"), std::string::npos);
  EXPECT_THROW(read({{"model_type", "qwen3_5_moe"}}), base::Error);
}

}  // namespace
}  // namespace coterie::families
