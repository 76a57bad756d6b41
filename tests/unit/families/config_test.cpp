#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "families/family.h"
#include "families/open.h"

namespace coterie::families {
namespace {

using base::Json;
using layers::AttentionSpec;
using layers::DenseFfnSpec;
using layers::MoeSpec;
using layers::RopeSpec;

ModelSpec read(const Json& json, bool strict = false) { return read_config(json, "config.json", strict); }

const AttentionSpec& attention(const ModelSpec& spec, size_t layer = 0) {
  return std::get<AttentionSpec>(spec.blocks[layer].mixer);
}

/// The message of the error that reading the config throws; empty when it throws none.
std::string refusal(const Json& json, bool strict = false) {
  try {
    read(json, strict);
    return "";
  } catch (const base::Error& error) {
    return error.what();
  }
}

void expect_refused(Json json, const std::string& key, const Json& value, const std::string& said = "") {
  json[key] = value;
  const std::string message = refusal(json);
  EXPECT_NE(message.find(said.empty() ? key : said), std::string::npos)
      << key << " = " << value << " in a " << json["model_type"] << " config gave \"" << message << "\"";
}

// As training reads a config: strictly.
TEST(Config, AMisspeltKeyIsRefusedWithTheNearest) {
  const auto hint = [](const char* key) {
    try {
      read({{"model_type", "mixtral"}, {key, 4}}, true);
    } catch (const base::Error& error) {
      return error.hint().substr(0, error.hint().find(';'));
    }
    return std::string();
  };
  EXPECT_EQ(hint("num_local_expert"), "did you mean \"num_local_experts\"? Or remove it");
  EXPECT_EQ(hint("zzz"), "remove it");
}

// --router jitter:E is in the place of what the model has, whichever way it shakes; never on top of it.
TEST(Config, AJitterThatIsAskedForReplacesTheModels) {
  const auto jitters = [](const Json& json, float asked) {
    ModelSpec spec = read(json);
    OpenOptions options;
    options.router_jitter = asked;
    apply(options, spec);
    const auto& moe = std::get<MoeSpec>(spec.blocks[0].ffn);
    return std::pair(moe.jitter, moe.router.jitter);
  };
  using Pair = std::pair<float, float>;
  const Json plain = {{"model_type", "mixtral"}}, own = {{"model_type", "mixtral"}, {"router_jitter_noise", 0.2}};
  const Json both = {{"model_type", "phimoe"}, {"input_jitter_noise", 0.2}};
  EXPECT_EQ(jitters(plain, 0.1f), Pair(0.0f, 0.1f));
  EXPECT_EQ(jitters(own, 0.1f), Pair(0.1f, 0.0f));
  EXPECT_EQ(jitters(both, 0.1f), Pair(0.1f, 0.1f));
  EXPECT_EQ(jitters(own, 0), Pair(0.2f, 0.0f));
  EXPECT_EQ(jitters(both, 0), Pair(0.2f, 0.2f));
  EXPECT_THROW(jitters(plain, 0), base::Error);
}

// The defaults are those of transformers' config classes: checked against configuration_*.py of 5.23.
TEST(Config, DefaultsAreTheReferences) {
  const ModelSpec llama = read({{"model_type", "llama"}});
  EXPECT_EQ(llama.vocabulary, 32000);
  EXPECT_EQ(llama.blocks.size(), 32u);
  EXPECT_EQ(attention(llama).kv_heads, 32);
  EXPECT_EQ(llama.context, 2048);
  EXPECT_FLOAT_EQ(llama.final_norm.eps, 1e-6f);
  EXPECT_EQ(std::get<DenseFfnSpec>(llama.blocks[0].ffn).hidden, 11008);

  const ModelSpec mistral = read({{"model_type", "mistral"}});
  EXPECT_EQ(attention(mistral).kv_heads, 8);
  EXPECT_EQ(attention(mistral).window, 4096);
  EXPECT_EQ(attention(read({{"model_type", "mistral"}, {"num_key_value_heads", nullptr}})).kv_heads, 32);
  EXPECT_EQ(attention(read({{"model_type", "mistral"}, {"sliding_window", nullptr}})).window, 0);

  const ModelSpec mixtral = read({{"model_type", "mixtral"}});
  EXPECT_EQ(attention(mixtral).rope->theta, 1e6);
  EXPECT_EQ(attention(mixtral).window, 0);
  EXPECT_FLOAT_EQ(mixtral.final_norm.eps, 1e-5f);
  EXPECT_TRUE(std::get<MoeSpec>(mixtral.blocks[0].ffn).router.renormalise);
  EXPECT_EQ(mixtral.router_aux_loss, 0.0f);

  const ModelSpec qwen3 = read({{"model_type", "qwen3"}, {"hidden_size", 1024}});
  EXPECT_EQ(attention(qwen3).head_dim, 128);
  EXPECT_FALSE(attention(qwen3).q_bias);
  EXPECT_EQ(attention(qwen3).qk_norm, AttentionSpec::QkNorm::per_head);
  EXPECT_TRUE(attention(read({{"model_type", "qwen2"}})).k_bias);

  const ModelSpec qwen3_moe = read({{"model_type", "qwen3_moe"}});
  const auto& moe = std::get<MoeSpec>(qwen3_moe.blocks[0].ffn);
  EXPECT_EQ(attention(qwen3_moe).head_dim, 64);
  EXPECT_EQ(moe.router.experts, 128);
  EXPECT_EQ(moe.router.experts_per_token, 8);
  EXPECT_FALSE(moe.router.renormalise);
  EXPECT_EQ(moe.hidden, 768);

  const ModelSpec qwen2_moe = read({{"model_type", "qwen2_moe"}});
  EXPECT_TRUE(attention(qwen2_moe).q_bias);
  EXPECT_EQ(std::get<MoeSpec>(qwen2_moe.blocks[0].ffn).shared_hidden, 5632);
  EXPECT_EQ(std::get<MoeSpec>(qwen2_moe.blocks[0].ffn).router.experts, 60);

  const ModelSpec olmoe = read({{"model_type", "olmoe"}});
  EXPECT_EQ(olmoe.vocabulary, 50304);
  EXPECT_EQ(attention(olmoe).qk_norm, AttentionSpec::QkNorm::full_width);
  EXPECT_FALSE(std::get<MoeSpec>(olmoe.blocks[0].ffn).router.renormalise);
  EXPECT_EQ(read({{"model_type", "olmoe"}, {"output_router_logits", true}}).router_aux_loss, 0.01f);
}

TEST(Config, RopeInBothSpellings) {
  const Json scaling = {{"type", "linear"}, {"factor", 4}};
  const RopeSpec old = *attention(read({{"model_type", "llama"}, {"rope_theta", 5e5}, {"rope_scaling", scaling}})).rope;
  EXPECT_EQ(old.scaling, RopeSpec::Scaling::linear);
  EXPECT_EQ(old.theta, 5e5);
  EXPECT_EQ(old.factor, 4);
  const Json parameters = {{"rope_type", "llama3"}, {"rope_theta", 5e5},     {"factor", 8},
                           {"low_freq_factor", 1},  {"high_freq_factor", 4}, {"original_max_position_embeddings", 64}};
  const RopeSpec fresh = *attention(read({{"model_type", "llama"}, {"rope_parameters", parameters}})).rope;
  EXPECT_EQ(fresh.scaling, RopeSpec::Scaling::llama3);
  EXPECT_EQ(fresh.theta, 5e5);
  EXPECT_EQ(fresh.original_context, 64);
}

TEST(Config, ScalingsMakeRoomForMorePositions) {
  const auto context = [](Json scaling) {
    return read({{"model_type", "llama"}, {"max_position_embeddings", 1000}, {"rope_scaling", scaling}}).context;
  };
  EXPECT_EQ(context(nullptr), 1000);
  EXPECT_EQ(context({{"type", "linear"}, {"factor", 4}}), 4000);
  EXPECT_EQ(context({{"type", "dynamic"}, {"factor", 2.5}}), 2500);
  EXPECT_EQ(context({{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 1000}}), 4000);
  EXPECT_EQ(context({{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 250}}), 1000);
}

TEST(Config, RopeThatCannotBeHonouredIsRefused) {
  const Json llama = {{"model_type", "llama"}};
  expect_refused(llama, "rope_scaling", {{"rope_type", "longrope"}, {"factor", 2}}, "short_factor");
  expect_refused(llama, "rope_scaling", {{"rope_type", "linear"}, {"factor", 2}, {"surprise", 1}}, "surprise");
  expect_refused(llama, "rope_scaling", {{"rope_type", "linear"}}, "factor");
  expect_refused(llama, "rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}},
                 "partial_rotary_factor");
  expect_refused(llama, "rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}, "full_attention");
  expect_refused(llama, "partial_rotary_factor", 0.5);
}

TEST(Config, SlidingWindowsByLayer) {
  Json json = {{"model_type", "qwen2"},
               {"num_hidden_layers", 4},
               {"use_sliding_window", true},
               {"sliding_window", 7},
               {"max_window_layers", 3}};
  EXPECT_EQ(attention(read(json), 2).window, 0);
  EXPECT_EQ(attention(read(json), 3).window, 7);
  json["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "full_attention"};
  EXPECT_EQ(attention(read(json), 0).window, 7);
  EXPECT_EQ(attention(read(json), 3).window, 0);
  expect_refused(json, "layer_types", {"full_attention"});
  expect_refused(json, "layer_types", {"linear_attention", "full_attention", "full_attention", "full_attention"});
  json["use_sliding_window"] = false;
  EXPECT_NE(refusal(json), "");
  expect_refused({{"model_type", "mistral"}}, "sliding_window", 0);
  expect_refused({{"model_type", "llama"}}, "sliding_window", 4096);
}

TEST(Config, SparseLayersOfQwen) {
  const ModelSpec spec = read(
      {{"model_type", "qwen2_moe"}, {"num_hidden_layers", 6}, {"decoder_sparse_step", 2}, {"mlp_only_layers", {3}}});
  const std::vector<bool> sparse = {false, true, false, false, false, true};
  for (size_t i = 0; i < sparse.size(); ++i)
    EXPECT_EQ(std::holds_alternative<MoeSpec>(spec.blocks[i].ffn), sparse[i]) << i;
}

TEST(Config, SpellingsOfExpertCounts) {
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"})
    EXPECT_EQ(std::get<MoeSpec>(read({{"model_type", "qwen3_moe"}, {key, 16}}).blocks[0].ffn).router.experts, 16);
  for (const char* key : {"num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_k"})
    EXPECT_EQ(std::get<MoeSpec>(read({{"model_type", "mixtral"}, {key, 3}}).blocks[0].ffn).router.experts_per_token, 3);
  expect_refused({{"model_type", "mixtral"}, {"num_experts", 4}}, "num_local_experts", 8);
}

TEST(Config, WhatWouldChangeTheResultIsRefusedByName) {
  const Json mixtral = {{"model_type", "mixtral"}};
  expect_refused(mixtral, "quantization_config", {{"quant_method", "bitsandbytes"}});
  expect_refused(mixtral, "attention_bias", true);
  expect_refused(mixtral, "hidden_act", "quick_gelu");
  expect_refused(mixtral, "routed_scaling_factor", 2.5);
  expect_refused(mixtral, "n_shared_experts", 1);
  expect_refused(mixtral, "num_experts_per_tok", 9, "experts per token");
  expect_refused(mixtral, "norm_topk_prob", false);
  expect_refused({{"model_type", "llama"}}, "num_local_experts", 8);
  expect_refused({{"model_type", "llama"}}, "final_logit_softcapping", 30.0);
  expect_refused({{"model_type", "llama"}}, "is_encoder_decoder", true);
  expect_refused({{"model_type", "olmoe"}}, "head_dim", 32);
  EXPECT_EQ(refusal({{"model_type", "llama"}, {"attention_bias", false}, {"pretraining_tp", 2}, {"num_experts", 0}}),
            "");
}

TEST(Config, SizesThatCannotBeAreRefused) {
  const Json llama = {{"model_type", "llama"}};
  expect_refused(llama, "hidden_size", -4, "is -4");
  expect_refused(llama, "num_hidden_layers", 0);
  expect_refused(llama, "num_hidden_layers", int64_t{1} << 60);
  expect_refused(llama, "num_attention_heads", 0);
  expect_refused(llama, "num_attention_heads", 33, "multiple");
  expect_refused(llama, "num_key_value_heads", 5, "multiple");
  expect_refused(llama, "head_dim", 7, "even");
  expect_refused(llama, "vocab_size", int64_t{1} << 60, "vocabulary");
  expect_refused(llama, "hidden_size", "wide");
  expect_refused(llama, "rope_theta", 0, "rotary base");
  expect_refused(llama, "rms_norm_eps", -1.0, "epsilon");
}

TEST(Config, UnknownKeysWarnAndStrictRefuses) {
  const Json json = {{"model_type", "llama"}, {"my_own_key", 3}};
  const ModelSpec spec = read(json);
  EXPECT_NE(spec.warnings.back().find("my_own_key"), std::string::npos);
  EXPECT_EQ(spec.warnings.size(), read({{"model_type", "llama"}}).warnings.size() + 1);
  EXPECT_NE(refusal(json, true).find("my_own_key"), std::string::npos);
}

TEST(Config, DefaultsThatDecideAreTold) {
  const std::vector<std::string> warnings = read({{"model_type", "mixtral"}, {"hidden_size", 4096}}).warnings;
  const auto told = [&](const std::string& words) {
    return std::any_of(warnings.begin(), warnings.end(),
                       [&](const std::string& warning) { return warning.find(words) != std::string::npos; });
  };
  for (const char* words :
       {"vocab_size is not given; 32000", "num_hidden_layers is not given; 32", "rope_theta is not given; 1e+06",
        "num_key_value_heads is not given; 8", "rms_norm_eps is not given; 1e-05"})
    EXPECT_TRUE(told(words)) << words;
  EXPECT_FALSE(told("hidden_size"));
  // Jamba has no positions to rotate by.
  for (const std::string& warning : read({{"model_type", "jamba"}}).warnings)
    EXPECT_EQ(warning.find("rope"), std::string::npos) << warning;
}

TEST(Config, TokensOutsideOfTheVocabularyAreWarnedOf) {
  const Json json = {{"model_type", "llama"}, {"vocab_size", 4096}, {"eos_token_id", {2, 999999}}};
  EXPECT_NE(read(json).warnings.back().find("eos_token_id is 999999, outside of the vocabulary of 4096"),
            std::string::npos);
}

TEST(Config, KnownFamiliesThatAreNotSupportedSayWhatTheyNeed) {
  for (const auto& [family, words] :
       {std::pair("falcon_h1", "side by side in one block"), std::pair("deepseek_v4", "table of ids"),
        std::pair("zaya", "convolutions"), std::pair("grok-1", "softcaps of the router")})
    EXPECT_NE(refusal({{"model_type", family}}).find(words), std::string::npos) << family;
  EXPECT_NE(what_is_missing({}, "falcon-h1"), "");
  // Mixtures of transformers 5.24, and of others, that are not supported: each says what it needs.
  for (const char* family : {"aria",
                             "axk1",
                             "axk2",
                             "cohere2_moe",
                             "deepseek_v4",
                             "diffusion_gemma",
                             "doge",
                             "dots3_note",
                             "ernie4_5_vl_moe",
                             "flint",
                             "glm4v_moe",
                             "glm5_next",
                             "granite_docling",
                             "hy_v4",
                             "hy_v4_vl",
                             "inkling",
                             "inkling2",
                             "inkling2_loop",
                             "kolibri1",
                             "lara_mini",
                             "minimax_m3_vl",
                             "mistral4",
                             "mistral_large4",
                             "muse_spark",
                             "openai_privacy_filter",
                             "qwen4_exp",
                             "unlimited_ocr",
                             "zaya",
                             "smallthinker",
                             "grovemoe",
                             "kimi_k3",
                             "grok",
                             "arctic",
                             "bamba",
                             "olmo_hybrid",
                             "lfm3"})
    EXPECT_NE(what_is_missing(family, {}), "") << family;
  EXPECT_EQ(what_is_missing("llama", {}), "");
  EXPECT_EQ(what_is_missing({}, {}), "");
}

TEST(Config, LongRopeNeedsItsFactors) {
  const Json phi3 = {{"model_type", "phi3"}, {"num_attention_heads", 8}, {"hidden_size", 64}};
  const auto scaling = [](const Json& more) {
    Json json = {{"type", "longrope"}, {"short_factor", {1, 1, 1, 1}}, {"long_factor", {2, 2, 2, 2}}};
    json.update(more);
    return json;
  };
  expect_refused(phi3, "rope_scaling", scaling({{"short_factor", {1, 1}}}), "4");
  expect_refused(phi3, "rope_scaling", scaling({{"long_factor", {1, 1, 0, 1}}}), "above 0");
  expect_refused(phi3, "rope_scaling", Json{{"type", "linear"}, {"factor", 2}}, "longrope");
  expect_refused(phi3, "rope_scaling", scaling({{"short_mscale", 1.1}}), "short_mscale");
  Json long_context = phi3;
  long_context["rope_scaling"] = scaling(Json::object()), long_context["max_position_embeddings"] = 131072;
  const ModelSpec spec = read(long_context);
  const auto& rope = *std::get<layers::AttentionSpec>(spec.blocks[0].mixer).rope;
  EXPECT_EQ(rope.original_context, 4096);
  EXPECT_NEAR(rope.long_magnitude, std::sqrt(1 + std::log(32.0) / std::log(4096.0)), 1e-6);
}

TEST(Config, Gemma3SpellsItsLayersTwoWays) {
  const Json old = {{"model_type", "gemma3_text"},
                    {"num_hidden_layers", 6},
                    {"sliding_window_pattern", 3},
                    {"sliding_window", 9},
                    {"rope_theta", 500000.0},
                    {"rope_local_base_freq", 7000.0},
                    {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8}}}};
  const ModelSpec spec = read(old);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const auto& attention = std::get<layers::AttentionSpec>(spec.blocks[i].mixer);
    const bool slides = (i + 1) % 3 != 0;
    EXPECT_EQ(attention.window, slides ? 9 : 0);
    EXPECT_EQ(attention.rope->theta, slides ? 7000 : 500000);
    EXPECT_EQ(attention.rope->scaling, slides ? layers::RopeSpec::Scaling::none : layers::RopeSpec::Scaling::linear);
  }
  expect_refused({{"model_type", "gemma3_text"}}, "rope_parameters", Json{{"rope_type", "default"}}, "full_attention");
}

TEST(Config, UnsupportedFamiliesAreRefusedWithTheList) {
  const std::string message = refusal({{"model_type", "grok-1"}});
  for (const char* name : {"grok-1", "mistral", "qwen2", "qwen3", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"})
    EXPECT_NE(message.find(name), std::string::npos) << message;
  EXPECT_NE(refusal({{"hidden_size", 8}}).find("model_type"), std::string::npos);
  EXPECT_NE(refusal(Json::array()), "");
}

TEST(Config, RoutersCanBeOverridden) {
  ModelSpec spec = read({{"model_type", "mixtral"}});
  apply({.strict = false, .experts_per_token = 3, .router_sample = 0.5f}, spec);
  const auto& router = std::get<MoeSpec>(spec.blocks[0].ffn).router;
  EXPECT_EQ(router.experts_per_token, 3);
  EXPECT_EQ(router.selection, layers::RouterSpec::Selection::sample);
  EXPECT_EQ(router.temperature, 0.5f);
  EXPECT_THROW(apply({.strict = false, .experts_per_token = 9, .router_sample = {}}, spec), base::Error);
  EXPECT_THROW(apply({.strict = false, .experts_per_token = {}, .router_sample = 0.0f}, spec), base::Error);
  ModelSpec dense = read({{"model_type", "llama"}});
  EXPECT_THROW(apply({.strict = false, .experts_per_token = 1, .router_sample = {}}, dense), base::Error);
}

}  // namespace
}  // namespace coterie::families
