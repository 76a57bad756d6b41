#include "families/config/config_reader.h"
#include "families/known/bailing.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// Sarvam's models (Sarvam AI 2026): sarvam_moe is GLM-4-MoE's blocks with norms of queries and keys in Ling 2.0's
// tensors, sarvam_mla DeepSeek-V3's whole.
namespace coterie::families {

namespace {

ModelSpec moe_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 262144,
                                   .width = 4096,
                                   .layers = 19,
                                   .heads = 64,
                                   .kv_heads = 4,
                                   .head_dim = 64,
                                   .hidden = 8192,
                                   .context = 131072,
                                   .theta = 8e6,
                                   .partial_rotary = 1.0});
  // The first published config has another name for it.
  const bool bias = config.keys.boolean("attention_bias", config.keys.boolean("use_qkv_bias", false));
  const bool normed = config.keys.boolean("use_qk_norm", true);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = bias;
    if (normed) attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
  }
  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(
      config, {.experts = 128, .experts_per_token = 6, .groups = 1, .groups_kept = 1, .scale = 2.5});
  moe.hidden = config.keys.integer("moe_intermediate_size", 1024);
  for (const auto& [key, value] : {std::pair<const char*, base::Json>("score_function", "sigmoid"),
                                   {"use_bias", false},
                                   {"moe_router_enable_expert_bias", true},
                                   {"moe_shared_expert_intermediate_size", moe.hidden}})
    config.expect(key, value);
  config.keys.inert({"router_dtype", "embedding_dropout", "output_dropout"});
  deepseek::set_experts(config, spec, moe, {.shared = 1, .dense_layers = 1});
  deepseek::set_prediction_layers(config, spec, 0);
  return spec;
}

ModelSpec mla_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 262144,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 64,
                                   .head_dim = config.keys.integer("qk_rope_head_dim", 64),
                                   .hidden = 16384,
                                   .context = 4096});
  deepseek::set_attention(config, spec, config.keys.boolean("rope_interleave", true),
                          {.q_rank = 0, .kv_rank = 512, .nope_dim = 128, .rope_dim = 64, .value_dim = 128});
  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(
      config, {.experts = 128, .experts_per_token = 8, .groups = 1, .groups_kept = 1, .scale = 2.5});
  moe.hidden = config.keys.integer("moe_intermediate_size", 2048);
  config.keys.inert({"q_head_dim"});
  deepseek::set_experts(config, spec, moe, {.shared = 1, .dense_layers = 1});
  deepseek::set_prediction_layers(config, spec, 0);
  return spec;
}

}  // namespace

const Family kSarvamMoe = {
    .model_type = "sarvam_moe",
    .architecture = "bailingmoe2",
    .class_name = "SarvamMoEForCausalLM",
    .from_config = moe_from_config,
    .from_gguf = bailing::from_gguf,
    .hugging_face_names = bailing::names,
    .to_gguf = bailing::to_gguf,
    .adjust_gguf_names = bailing::adjust_gguf_names,
    .says = deepseek::has_experts,
};
const Family kSarvamMla = {
    .model_type = "sarvam_mla",
    .architecture = "deepseek2",
    .class_name = "SarvamMLAForCausalLM",
    .from_config = mla_from_config,
    .from_gguf = deepseek::latent_from_gguf,
    .hugging_face_names = deepseek::latent_names,
    .to_gguf = deepseek::experts_to_gguf,
    .fit_to_tensors = deepseek::find_sparse_layers,
    .says = deepseek::has_experts,
};

}  // namespace coterie::families
