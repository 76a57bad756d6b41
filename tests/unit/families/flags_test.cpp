#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "families/family.h"

// Families that are a known one with other flags: what each config says of which layer, and what is refused by name.
namespace coterie::families {
namespace {

using base::Json;
using layers::AttentionSpec;
using layers::MoeSpec;

ModelSpec read(Json json, const std::string& family, const Json& changes = Json::object()) {
  json["model_type"] = family;
  if (!changes.is_null()) json.update(changes);
  return read_config(json, "config.json", false);
}

const Json& small() {
  static const Json json = {{"vocab_size", 64},
                            {"hidden_size", 32},
                            {"intermediate_size", 24},
                            {"num_hidden_layers", 4},
                            {"num_attention_heads", 4},
                            {"num_key_value_heads", 4},
                            {"head_dim", 8},
                            {"num_local_experts", 8},
                            {"num_experts_per_tok", 2},
                            {"max_position_embeddings", 512}};
  return json;
}

const AttentionSpec& attention(const ModelSpec& spec, size_t layer) {
  return std::get<AttentionSpec>(spec.blocks[layer].mixer);
}
bool sparse(const ModelSpec& spec, size_t layer) { return std::holds_alternative<MoeSpec>(spec.blocks[layer].ffn); }

void expect_refused(const std::string& family, const Json& changes, const std::string& words) {
  try {
    read(small(), family, changes);
    ADD_FAILURE() << family << " with " << changes << " was read";
  } catch (const base::Error& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos)
        << family << " with " << changes << " gave \"" << error.what() << "\"";
  }
}

TEST(Flags, Llama4TakesTurns) {
  const ModelSpec spec = read(small(), "llama4_text", {{"attention_chunk_size", 16}, {"interleave_moe_layer_step", 2}});
  for (const size_t layer : {0, 1, 2}) {
    EXPECT_TRUE(attention(spec, layer).rope) << layer;
    EXPECT_EQ(attention(spec, layer).chunk, 16) << layer;
    EXPECT_EQ(attention(spec, layer).qk_norm, AttentionSpec::QkNorm::per_head_plain) << layer;
    EXPECT_FALSE(attention(spec, layer).temperature) << layer;
  }
  EXPECT_FALSE(attention(spec, 3).rope);
  EXPECT_EQ(attention(spec, 3).chunk, 0);
  EXPECT_EQ(attention(spec, 3).qk_norm, AttentionSpec::QkNorm::none);
  ASSERT_TRUE(attention(spec, 3).temperature);
  EXPECT_EQ(attention(spec, 3).temperature->period, 8192);
  EXPECT_FALSE(sparse(spec, 0) || sparse(spec, 2));
  EXPECT_TRUE(sparse(spec, 1) && sparse(spec, 3));
  EXPECT_TRUE(std::get<MoeSpec>(spec.blocks[1].ffn).scale_inputs);
}

TEST(Flags, ExaoneHasNoPositionsWhereNothingSlides) {
  const ModelSpec spec =
      read(small(), "exaone_moe", {{"num_local_experts", nullptr}, {"num_experts", 8}, {"sliding_window", 9}});
  for (size_t layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(attention(spec, layer).window, layer == 3 ? 0 : 9) << layer;
    EXPECT_EQ(attention(spec, layer).rope.has_value(), layer != 3) << layer;
    EXPECT_EQ(sparse(spec, layer), layer > 0) << layer;
  }
}

TEST(Flags, GraniteSwashHasABaseForEachLayer) {
  const ModelSpec spec = read(small(), "granitemoe_swa", {{"layer_rope_theta", {0, 500, 10000, 0}}});
  EXPECT_FALSE(attention(spec, 0).rope || attention(spec, 3).rope);
  EXPECT_EQ(attention(spec, 1).rope->theta, 500);
  EXPECT_EQ(attention(spec, 2).rope->theta, 10000);
  EXPECT_TRUE(attention(spec, 0).sinks);
}

TEST(Flags, HunyuanScalesItsBaseOnce) {
  const ModelSpec spec = read(small(), "hunyuan_v1_moe",
                              {{"num_experts_per_tok", nullptr},
                               {"moe_topk", {1, 2, 3, 4}},
                               {"rope_scaling", {{"type", "dynamic"}, {"alpha", 1000.0}, {"factor", 1.0}}}});
  EXPECT_NEAR(attention(spec, 0).rope->theta, 10000 * std::pow(1000.0, 8.0 / 6), 1e-3);
  EXPECT_EQ(attention(spec, 0).rope->scaling, layers::RopeSpec::Scaling::none);
  for (size_t layer = 0; layer < 4; ++layer)
    EXPECT_EQ(std::get<MoeSpec>(spec.blocks[layer].ffn).router.experts_per_token, static_cast<int64_t>(layer) + 1);
}

TEST(Flags, AMultimodalConfigIsItsTextModels) {
  Json text = small();
  text["model_type"] = "qwen3_vl_moe_text";
  const Json whole = {{"model_type", "qwen3_vl_moe"}, {"text_config", text}, {"vision_config", {{"depth", 27}}}};
  const ModelSpec spec = read_config(whole, "config.json", false);
  EXPECT_EQ(spec.family.model_type, "qwen3_vl_moe_text");
  EXPECT_EQ(spec.width, 32);
  EXPECT_FALSE(spec.tied_embeddings);
  EXPECT_NE(spec.warnings.front().find("images and sound are not"), std::string::npos) << spec.warnings.front();
  Json omni = {{"model_type", "qwen3_omni_moe"}, {"thinker_config", {{"text_config", small()}}}};
  EXPECT_EQ(read_config(omni, "config.json", false).family.model_type, "qwen3_omni_moe_text");
  EXPECT_THROW(read_config({{"model_type", "kimi_k25"}}, "config.json", false), base::Error);
}

TEST(Flags, WhatWouldChangeTheResultIsRefusedByName) {
  expect_refused("minimax_m2", {{"use_qk_norm", false}}, "use_qk_norm is false");
  expect_refused("minimax_m2", {{"attn_type_list", {1, 1, 0, 1}}}, "attn_type_list");
  expect_refused("minimax_m2", {{"shared_intermediate_size", 64}}, "shared_intermediate_size");
  expect_refused("minimax_m2", {{"attention_bias", true}}, "attention_bias");
  expect_refused("glm4_moe_lite", {{"mlp_layer_types", {"dense", "sparse"}}}, "mlp_layer_types has 2 entries");
  expect_refused("hy_v3", {{"route_norm", false}}, "route_norm");
  expect_refused("hy_v3", {{"mlp_layer_types", {"dense", "wide", "sparse", "sparse"}}}, "\"wide\"");
  expect_refused("exaone_moe", {{"scoring_func", "softmax"}}, "scoring_func");
  expect_refused("exaone_moe", {{"is_moe_layer", {true, true, true, true}}}, "is_moe_layer");
  expect_refused("mellum", {{"rope_parameters", {{"rope_theta", 10000}}}}, "for each kind of layer");
  expect_refused("solar_open", {{"use_qk_norm", true}}, "use_qk_norm");
  expect_refused("granitemoe_swa", {{"layer_rope_theta", {1, 2}}}, "layer_rope_theta has 2 entries");
  expect_refused("hunyuan_v1_moe", {{"use_cla", true}}, "use_cla");
  expect_refused("hunyuan_v1_moe", {{"moe_topk", {1, 2}}}, "moe_topk has 2 entries");
  expect_refused("llama4_text",
                 {{"layer_types", {"sliding_attention", "full_attention", "full_attention", "full_attention"}}},
                 "sliding_attention");
  expect_refused("llama4_text", {{"attention_chunk_size", 0}}, "attention_chunk_size is 0");
  expect_refused("qwen3_vl_moe_text", {{"norm_topk_prob", false}}, "norm_topk_prob");
  expect_refused("ernie4_5_moe", {{"moe_gate", "other"}}, "moe_gate");
  expect_refused("dbrx", {{"ffn_config", {{"moe_normalize_expert_weights", 2.0}}}}, "moe_normalize_expert_weights");
  expect_refused("dbrx", {{"attn_config", {{"alibi", true}}}}, "alibi");
  expect_refused("bailing_moe", {}, "Ling 1");
  expect_refused("bailing_moe_v2", {{"score_function", "softmax"}}, "score_function");
}

TEST(Flags, EveryKnownFamilyThatIsNotReadSaysWhatItNeeds) {
  for (const char* family :
       {"qwen4_exp", "deepseek_v4", "glm5_next", "hy_v4", "mistral4", "mistral_large4", "cohere2_moe", "minimax_m3_vl",
        "zaya", "inkling", "inkling2", "axk1", "axk2", "dots3_note", "doge", "smallthinker"}) {
    EXPECT_NE(what_is_missing(family, {}), "") << family;
  }
}

}  // namespace
}  // namespace coterie::families
