#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// AFMoE, Arcee's Trinity (2025): attention whose output is gated, positions in the layers that slide alone, norms
// before and after both sublayers; DeepSeek-V3's router without groups, after some dense layers.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

void set_gate(layers::AttentionSpec& attention) {
  attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
  attention.gate.shape = layers::OutputGate::Shape::per_channel;
  if (attention.window == 0) attention.rope.reset();
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 200192,
                                   .width = 2048,
                                   .layers = 32,
                                   .heads = 16,
                                   .head_dim = 128,
                                   .hidden = 6144,
                                   .context = 16384,
                                   .eps = 1e-5});
  config.set_attention_biases(spec);
  if (config.keys.boolean("mup_enabled", false)) spec.embedding_multiplier = std::sqrt(static_cast<float>(spec.width));
  const int64_t period = config.keys.integer("global_attn_every_n_layers", 4);
  if (period < 1)
    fail(ErrorKind::bad_input, config.keys.where(), "global_attn_every_n_layers is {}: expected at least 1", period);
  config.set_windows(spec, config.sliding_window(1024), [&](int64_t layer) { return (layer + 1) % period != 0; });
  layers::MoeSpec moe;
  moe.router.score = layers::RouterSpec::Score::sigmoid;
  moe.router.selection_bias = true, moe.router.renormalise = true;
  moe.router.experts = config.experts(64);
  moe.router.experts_per_token = config.experts_per_token(6);
  moe.router.scale = static_cast<float>(config.keys.number("route_scale", 1.0));
  moe.hidden = config.keys.integer("moe_intermediate_size", 1408);
  moe.shared_hidden = moe.hidden * config.keys.integer("num_shared_experts", 2);
  if (!config.keys.boolean("route_norm", true))
    fail(ErrorKind::unsupported, config.keys.where(), "route_norm is false: weights are divided by their sum here");
  if (const std::string score = config.keys.string("score_func", "sigmoid"); score != "sigmoid")
    fail(ErrorKind::unsupported, config.keys.where(), "score_func is \"{}\": expected \"sigmoid\"", score);
  const int64_t dense = config.keys.integer("num_dense_layers", 1);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    BlockSpec& block = spec.blocks[i];
    set_gate(std::get<layers::AttentionSpec>(block.mixer));
    block.mixer_post_norm = block.ffn_post_norm = spec.final_norm;
    if (static_cast<int64_t>(i) < dense) continue;
    moe.activation = std::get<layers::DenseFfnSpec>(block.ffn).activation;
    block.ffn = moe;
  }
  config.keys.inert({"load_balance_coeff", "use_grouped_mm"});
  return spec;
}

// llama.cpp multiplies the embedded tokens in any case.
ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  spec.embedding_multiplier = std::sqrt(static_cast<float>(spec.width));
  metadata.set_windows(spec, metadata.integer("attention.sliding_window", 0), 4);
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  const int64_t hidden = metadata.integer("expert_feed_forward_length");
  metadata.set_experts(spec, {.hidden = hidden,
                              .shared_hidden = hidden * metadata.integer("expert_shared_count", 0),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = true});
  for (BlockSpec& block : spec.blocks) {
    set_gate(std::get<layers::AttentionSpec>(block.mixer));
    block.mixer_post_norm = block.ffn_post_norm = spec.final_norm;
  }
  return spec;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  deepseek::experts_to_gguf(spec, metadata);
  metadata.erase("embedding_scale");
  metadata.window_pattern(spec);
  for (const BlockSpec& block : spec.blocks)
    if (const auto& attention = std::get<layers::AttentionSpec>(block.mixer); attention.rope)
      metadata.rope(*attention.rope);
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  config.experts("num_experts");
  config.sliding_window();
  config.json["layer_types"] = config.layer_types();
  config.json["mup_enabled"] = spec.embedding_multiplier != 1;
  const layers::MoeSpec& moe = *first_moe(spec);
  config.json["moe_intermediate_size"] = moe.hidden;
  config.json["num_shared_experts"] = moe.shared_hidden / std::max<int64_t>(moe.hidden, 1);
  config.json["route_scale"] = decimal(moe.router.scale);
  size_t dense = 0;
  while (std::holds_alternative<layers::DenseFfnSpec>(spec.blocks[dense].ffn)) ++dense;
  config.json["num_dense_layers"] = dense;
}

NameTable names() {
  NameTable table = deepseek::expert_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  table.names[path + "mixer_post_norm"] = {{layer + "post_attention_layernorm.weight"}};
  table.names[path + "ffn_norm"] = {{layer + "pre_mlp_layernorm.weight"}};
  table.names[path + "ffn_post_norm"] = {{layer + "post_mlp_layernorm.weight"}};
  table.names[path + "attention.gate"] = {{layer + "self_attn.gate_proj.weight"}};
  table.names[path + "moe.router"] = {{layer + "mlp.router.gate.weight"}};
  table.names[path + "moe.router.selection_bias"] = {{layer + "mlp.expert_bias"}};
  return table;
}

}  // namespace

const Family kAfmoe = {
    .model_type = "afmoe",
    .architecture = "afmoe",
    .class_name = "AfmoeForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
};

}  // namespace coterie::families
