#include <utility>

#include "families/config/config_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// GLM-4.5 (arXiv:2508.06471): DeepSeek-V3's mixture under grouped-query attention that rotates a part of each head.
namespace coterie::families {

namespace {

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 151552,
                                   .width = 4096,
                                   .layers = 46,
                                   .heads = 96,
                                   .kv_heads = 8,
                                   .hidden = 10944,
                                   .context = 131072,
                                   .eps = 1e-5,
                                   .partial_rotary = 0.5});
  const bool bias = config.keys.boolean("attention_bias", false);
  const bool normed = config.keys.boolean("use_qk_norm", false);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = bias;
    if (normed) attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
  }
  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(
      config, {.experts = 128, .experts_per_token = 8, .groups = 1, .groups_kept = 1, .scale = 1});
  moe.hidden = config.keys.integer("moe_intermediate_size", 1408);
  deepseek::set_experts(config, spec, moe, {.shared = 1, .dense_layers = 1});
  deepseek::set_prediction_layers(config, spec, 1);
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  const bool normed = metadata.has_tensor("blk.0.attn_q_norm.weight");
  for (BlockSpec& block : spec.blocks)
    if (normed) std::get<layers::AttentionSpec>(block.mixer).qk_norm = layers::AttentionSpec::QkNorm::per_head;
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  const int64_t hidden = metadata.integer("expert_feed_forward_length");
  metadata.set_experts(spec, {.hidden = hidden,
                              .shared_hidden = hidden * metadata.integer("expert_shared_count", 0),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = deepseek::has_selection_bias(metadata, spec),
                              .groups = true});
  deepseek::drop_prediction_layers(metadata, spec);
  return spec;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  deepseek::experts_to_config(spec, config);
  const layers::AttentionSpec& attention = config.attention();
  config.json["use_qk_norm"] = attention.qk_norm != layers::AttentionSpec::QkNorm::none;
  config.json["partial_rotary_factor"] =
      static_cast<double>(attention.rope->dims) / static_cast<double>(attention.head_dim);
  config.json["num_nextn_predict_layers"] = 0;
}

// llama.cpp calls the norm before the FFN one after the attention.
void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  std::vector<NameInFile>& names = table.names["blocks.{layer}.ffn_norm"];
  std::swap(names[0], names[1]);
}

}  // namespace

const Family kGlm4Moe = {
    .model_type = "glm4_moe",
    .architecture = "glm4moe",
    .class_name = "Glm4MoeForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = deepseek::expert_names,
    .to_config = to_config,
    .to_gguf = deepseek::experts_to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
};

}  // namespace coterie::families
