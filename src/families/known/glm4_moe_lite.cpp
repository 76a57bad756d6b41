#include "families/known/deepseek.h"
#include "families/known/families.h"

// GLM-4.7-Flash (Z.ai 2026): DeepSeek-V3 whole, latent attention and router, with sizes and defaults of its own;
// mlp_layer_types says which layers have experts. In GGUF it is DeepSeek's architecture, read there.
namespace coterie::families {

namespace {

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 154880,
                                   .width = 2048,
                                   .layers = 47,
                                   .heads = 20,
                                   .kv_heads = 20,
                                   .head_dim = config.keys.integer("qk_rope_head_dim", 64),
                                   .hidden = 10240,
                                   .context = 202752,
                                   .eps = 1e-5});
  deepseek::set_attention(config, spec, config.keys.boolean("rope_interleave", true),
                          {.q_rank = 768, .kv_rank = 512, .nope_dim = 192, .rope_dim = 64, .value_dim = 256});
  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(
      config, {.experts = 64, .experts_per_token = 4, .groups = 1, .groups_kept = 1, .scale = 1.8});
  moe.hidden = config.keys.integer("moe_intermediate_size", 1536);
  deepseek::set_experts(config, spec, moe, {.shared = 1, .dense_layers = 1, .by_list = true});
  deepseek::set_prediction_layers(config, spec, 1);
  return spec;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  deepseek::v3_to_config(spec, config);
  config.expert_layers();
}

}  // namespace

const Family kGlm4MoeLite = {
    .model_type = "glm4_moe_lite",
    .architecture = "deepseek2",
    .class_name = "Glm4MoeLiteForCausalLM",
    .from_config = from_config,
    .from_gguf = deepseek::latent_from_gguf,
    .hugging_face_names = deepseek::latent_names,
    .to_config = to_config,
    .to_gguf = deepseek::experts_to_gguf,
    .fit_to_tensors = deepseek::find_sparse_layers,
    .says = deepseek::has_experts,
};

}  // namespace coterie::families
