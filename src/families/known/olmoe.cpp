#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/families.h"

// OLMoE (Muennighoff et al. 2024, arXiv:2409.02060): 64 small experts, the best 8, weights not renormalised; RMSNorm
// over the whole query and key projections, before clipping (clip_qkv) and RoPE.
namespace coterie::families {

namespace {

ModelSpec olmoe_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder(
      {.vocabulary = 50304, .width = 2048, .layers = 16, .heads = 16, .hidden = 2048, .context = 4096, .eps = 1e-5});
  config.set_attention_biases(spec);
  std::optional<float> clip;
  if (config.keys.has("clip_qkv")) clip = static_cast<float>(config.keys.number("clip_qkv"));
  config.keys.inert({"clip_qkv"});
  layers::MoeSpec moe;
  moe.router.experts = config.experts(64);
  moe.router.experts_per_token = config.experts_per_token(8);
  moe.router.renormalise = config.keys.boolean("norm_topk_prob", false);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    if (attention.heads * attention.head_dim != spec.width)
      base::fail(base::ErrorKind::bad_input, config.keys.where(),
                 "head_dim {}: the reference's q_norm fits only hidden_size / num_attention_heads", attention.head_dim);
    attention.qk_norm = layers::AttentionSpec::QkNorm::full_width;
    attention.clip_qkv = clip;
    turn_into_experts(block, moe);
  }
  spec.router_aux_loss = config.router_aux_loss(0.01);
  return spec;
}

ModelSpec olmoe_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  std::optional<float> clip;
  if (const double limit = metadata.number("attention.clamp_kqv", 0.0); limit > 0) clip = static_cast<float>(limit);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.qk_norm = layers::AttentionSpec::QkNorm::full_width;
    attention.clip_qkv = clip;
  }
  metadata.set_experts(spec, {.hidden = metadata.integer("feed_forward_length"), .renormalise = false});
  return spec;
}

NameTable olmoe_names() { return hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj"); }

void olmoe_to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.experts("num_experts");
  config.attention_bias();
  config.json["norm_topk_prob"] = first_moe(spec)->router.renormalise;
  const std::optional<float> clip = config.attention().clip_qkv;
  config.json["clip_qkv"] = clip ? base::Json(decimal(*clip)) : base::Json(nullptr);
}

constexpr Shape kShapes[] = {
    {"olmoe-1b-7b", R"({"model_type": "olmoe", "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 1024,
      "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64,
      "num_experts_per_tok": 8, "norm_topk_prob": false, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
      "rope_theta": 10000})"},
};

}  // namespace

const Family kOlmoe = {
    .model_type = "olmoe",
    .architecture = "olmoe",
    .class_name = "OlmoeForCausalLM",
    .from_config = olmoe_from_config,
    .from_gguf = olmoe_from_gguf,
    .hugging_face_names = olmoe_names,
    .to_config = olmoe_to_config,
    .shapes = kShapes,
};

}  // namespace coterie::families
