#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/json.h"
#include "families/family.h"
#include "models/account.h"
#include "support/expect_error.h"
#include "support/places.h"
#include "tiny_model.h"

// What the configs of DeepSeek-V2, DeepSeek-V3 and GLM-4-MoE say, beyond what the parity fixtures compute.
namespace coterie::families {
namespace {

using base::ErrorKind;
using base::Json;
using layers::LatentAttentionSpec;
using layers::MoeSpec;
using layers::RouterSpec;

Json published(const std::string& name) {
  return base::read_json(std::filesystem::path(tests::source_folder()) / "unit" / "families" / "configs" /
                         (name + ".json"));
}
Json tiny_config(const std::string& family, const Json& changes) {
  Json json = tiny::configs().at(family);
  json.update(changes);
  return json;
}
ModelSpec read(const Json& json) { return read_config(json, "test", true); }
const LatentAttentionSpec& mla_of(const ModelSpec& spec) {
  return std::get<LatentAttentionSpec>(spec.blocks.front().mixer);
}

TEST(Deepseek, PublishedV3) {
  const ModelSpec spec = read(published("deepseek-v3"));
  const LatentAttentionSpec& mla = mla_of(spec);
  EXPECT_EQ(mla.heads, 128);
  EXPECT_EQ(mla.q_rank, 1536);
  EXPECT_EQ(mla.kv_rank, 512);
  EXPECT_EQ(mla.nope_dim, 128);
  EXPECT_EQ(mla.rope_dim, 64);
  EXPECT_EQ(mla.value_dim, 128);
  const double magnitude = 0.1 * std::log(40.0) + 1;
  EXPECT_NEAR(mla.scale, magnitude * magnitude / std::sqrt(192.0), 1e-7);
  EXPECT_EQ(mla.rope.style, ops::RopeTable::Style::interleaved);
  for (size_t i = 0; i < 61; ++i)
    EXPECT_EQ(std::holds_alternative<MoeSpec>(spec.blocks[i].ffn), i >= 3) << "layer " << i;
  const auto& moe = std::get<MoeSpec>(spec.blocks[60].ffn);
  EXPECT_EQ(moe.shared_hidden, 2048);
  EXPECT_EQ(moe.router.score, RouterSpec::Score::sigmoid);
  EXPECT_TRUE(moe.router.selection_bias);
  EXPECT_TRUE(moe.router.renormalise);
  EXPECT_EQ(moe.router.groups, 8);
  EXPECT_EQ(moe.router.groups_kept, 4);
  EXPECT_EQ(moe.router.group_score, RouterSpec::GroupScore::best_two);
  EXPECT_EQ(moe.router.scale, 2.5f);
  EXPECT_EQ(spec.prediction_layers, 1);
  EXPECT_TRUE(spec.warnings.empty()) << spec.warnings.front();
}

TEST(Deepseek, PublishedV2) {
  const ModelSpec spec = read(published("deepseek-v2"));
  const auto& router = std::get<MoeSpec>(spec.blocks[1].ffn).router;
  EXPECT_EQ(router.score, RouterSpec::Score::softmax);
  EXPECT_EQ(router.groups, 8);
  EXPECT_EQ(router.groups_kept, 3);
  EXPECT_EQ(router.group_score, RouterSpec::GroupScore::best);
  EXPECT_FALSE(router.renormalise);
  EXPECT_FALSE(router.selection_bias);
  EXPECT_EQ(router.scale, 16.0f);
  // Greedy has no groups, whatever n_group says.
  EXPECT_EQ(
      std::get<MoeSpec>(read(tiny_config("deepseek_v2", {{"topk_method", "greedy"}})).blocks[1].ffn).router.groups, 1);
}

// In f16, a layer: the latent and the rotary key, and the latent again as the value.
TEST(Deepseek, TheCacheHoldsLatents) {
  EXPECT_EQ(account(read(published("deepseek-v3"))).cache_bytes_per_token, 61 * (512 + 64 + 512) * 2);
  EXPECT_EQ(account(read(published("deepseek-v2-lite"))).cache_bytes_per_token, 27 * (512 + 64 + 512) * 2);
}

TEST(Deepseek, WhichLayersAreSparse) {
  const ModelSpec spec =
      read(tiny_config("deepseek_v2", {{"num_hidden_layers", 6}, {"first_k_dense_replace", 1}, {"moe_layer_freq", 2}}));
  for (size_t i = 0; i < 6; ++i)
    EXPECT_EQ(std::holds_alternative<MoeSpec>(spec.blocks[i].ffn), i == 2 || i == 4) << "layer " << i;
}

TEST(Deepseek, RefusesWhatItDoesNotHonour) {
  const auto refused = [](const std::string& family, const Json& changes, std::string_view word) {
    try {
      read(tiny_config(family, changes));
      ADD_FAILURE() << changes.dump() << " was not refused";
    } catch (const base::Error& error) {
      EXPECT_NE(std::string_view(error.what()).find(word), std::string_view::npos) << error.what();
    }
  };
  refused("deepseek_v2", {{"topk_method", "noaux_tc"}}, "topk_method");
  refused("deepseek_v2", {{"scoring_func", "sigmoid"}}, "scoring_func");
  refused("deepseek_v2", {{"num_key_value_heads", 2}}, "num_key_value_heads");
  refused("deepseek_v2", {{"mlp_bias", true}}, "mlp_bias");
  refused("deepseek_v2", {{"rope_interleave", false}}, "rope_interleave");
  refused("deepseek_v2", {{"topk_group", 5}}, "groups");
  refused("deepseek_v2", {{"num_experts_per_tok", 5}}, "5 experts per token cannot come from 2 groups of 2");
  refused("deepseek_v2", {{"moe_layer_freq", 0}}, "moe_layer_freq");
  refused("deepseek_v3", {{"scoring_func", "softmax"}}, "scoring_func");
  refused("deepseek_v3", {{"topk_method", "greedy"}}, "topk_method");
  refused("deepseek_v3", {{"n_group", 3}}, "8 experts do not divide into 3 equal groups");
  refused("deepseek_v3", {{"n_group", 8}, {"topk_group", 8}}, "two best");
  refused("deepseek_v3", {{"kv_lora_rank", 0}}, "rank");
  refused("deepseek_v3", {{"qk_rope_head_dim", 7}}, "rotary");
  refused("deepseek_v3", {{"quantization_config", {{"quant_method", "bitsandbytes"}}}}, "quantization_config");
  refused("glm4_moe", {{"partial_rotary_factor", 1.5}}, "partial_rotary_factor");
  refused("glm4_moe", {{"partial_rotary_factor", 0.0}}, "partial_rotary_factor");
  refused("glm4_moe", {{"scoring_func", "noaux_tc"}}, "scoring_func");
  refused("dots1", {{"scoring_func", "softmax"}}, "scoring_func");
  refused("dots1", {{"topk_method", "sigmoid"}}, "topk_method");
  refused("dots1", {{"moe_layer_freq", 2}}, "moe_layer_freq");
  refused("dots1", {{"use_sliding_window", true}}, "use_sliding_window");
  refused("dots1", {{"n_routed_experts", nullptr}}, "expert");
}

TEST(Deepseek, NormTopkProbOfV2IsIgnoredAloud) {
  const ModelSpec spec = read(tiny_config("deepseek_v2", {{"norm_topk_prob", true}}));
  EXPECT_TRUE(std::any_of(spec.warnings.begin(), spec.warnings.end(), [](const std::string& warning) {
    return warning.find("norm_topk_prob") != std::string::npos;
  }));
  EXPECT_FALSE(std::get<MoeSpec>(spec.blocks[1].ffn).router.renormalise);
}

TEST(Deepseek, PredictionLayersAreLeftAlone) {
  ModelSpec spec = read(tiny::configs().at("deepseek_v3"));
  std::vector<checkpoint::MemoryTensor> tensors = tiny::weights(spec, 1);
  for (const char* name : {"eh_proj.weight", "mlp.experts.0.up_proj.weight"})
    tensors.push_back({std::string("model.layers.3.") + name, tensor::DType::f32, {1}, std::vector<std::byte>(4)});
  expect_error(ErrorKind::bad_input, {"model.layers.3.eh_proj.weight"}, [&] { tiny::bind(spec, tensors); });
  spec.prediction_layers = 1;
  EXPECT_NO_THROW(tiny::bind(spec, tensors));
  tensors.push_back({"model.layers.4.eh_proj.weight", tensor::DType::f32, {1}, std::vector<std::byte>(4)});
  expect_error(ErrorKind::bad_input, {"model.layers.4.eh_proj.weight"}, [&] { tiny::bind(spec, tensors); });
}

TEST(Deepseek, ATensorOfOtherHeadsIsRefused) {
  const ModelSpec spec = read(tiny::configs().at("deepseek_v3"));
  std::vector<checkpoint::MemoryTensor> tensors = tiny::weights(spec, 1);
  checkpoint::MemoryTensor& kv = tiny::find(tensors, "model.layers.1.self_attn.kv_b_proj.weight");
  ASSERT_EQ(kv.shape, (tensor::Shape{4 * (24 + 16), 32}));
  kv.shape = {4 * 39, 32}, kv.bytes.resize(static_cast<size_t>(4 * 39 * 32 * 4));
  expect_error(ErrorKind::bad_input, {"model.layers.1.self_attn.kv_b_proj.weight", "[156, 32]", "[160, 32]"},
               [&] { tiny::bind(spec, tensors); });
}

// transformers puts experts into the layers that moe_layer_freq would leave dense; files it wrote say so themselves.
TEST(Deepseek, ExpertsInTheFileWinOverMoeLayerFreq) {
  const Json every = tiny_config("deepseek_v2", {{"moe_layer_freq", 1}});
  const ModelSpec sparse = read(every);
  const ModelSpec spec = read(tiny_config("deepseek_v2", {{"moe_layer_freq", 2}}));
  ASSERT_TRUE(std::holds_alternative<layers::DenseFfnSpec>(spec.blocks[1].ffn));
  const auto source = checkpoint::memory_source(tiny::weights(sparse, 1));
  std::vector<std::string> warnings;
  const auto decoder = bind_decoder(spec, *source, &warnings);
  EXPECT_TRUE(std::holds_alternative<MoeSpec>(decoder->spec().blocks[1].ffn));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("layer 1"), std::string::npos) << warnings[0];
}

}  // namespace
}  // namespace coterie::families
