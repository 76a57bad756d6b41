#include "families/config/config_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// Solar Open (Upstage 2025): GLM-4-MoE's mixture in every layer, under Llama's attention. In GGUF it is GLM's
// architecture, read there.
namespace coterie::families {

namespace {

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 196608,
                                   .width = 4096,
                                   .layers = 48,
                                   .heads = 64,
                                   .kv_heads = 8,
                                   .head_dim = 128,
                                   .hidden = config.keys.integer("moe_intermediate_size", 1280),
                                   .context = 131072,
                                   .eps = 1e-5,
                                   .theta = 1e6});
  const bool bias = config.keys.boolean("attention_bias", false);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = bias;
  }
  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(
      config, {.experts = 128, .experts_per_token = 8, .groups = 1, .groups_kept = 1, .scale = 1});
  moe.hidden = config.keys.integer("moe_intermediate_size", 1280);
  config.expect("first_k_dense_replace", 0);
  config.expect("use_qk_norm", false);
  deepseek::set_experts(config, spec, moe, {.shared = 1, .dense_layers = 0});
  return spec;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  deepseek::experts_to_config(spec, config);
}

}  // namespace

const Family kSolarOpen = {
    .model_type = "solar_open",
    .architecture = "glm4moe",
    .class_name = "SolarOpenForCausalLM",
    .from_config = from_config,
    .from_gguf = kGlm4Moe.from_gguf,
    .hugging_face_names = deepseek::expert_names,
    .to_config = to_config,
    .to_gguf = deepseek::experts_to_gguf,
    .adjust_gguf_names = kGlm4Moe.adjust_gguf_names,
    .says = deepseek::has_experts,
};

}  // namespace coterie::families
