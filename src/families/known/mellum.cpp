#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// Mellum 2 (JetBrains 2026): Qwen3-MoE's blocks, of which some slide, with a rotary embedding for each kind of layer.
namespace coterie::families {

namespace {

using layers::AttentionSpec;
using layers::MoeSpec;

constexpr std::string_view kFull = "full_attention", kSliding = "sliding_attention";

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 98304,
                                   .width = 2304,
                                   .layers = 28,
                                   .heads = 32,
                                   .kv_heads = 4,
                                   .head_dim = 128,
                                   .hidden = 7168,
                                   .context = 131072,
                                   .rope_by_layer = true});
  config.set_attention_biases(spec);
  config.set_windows(spec, config.sliding_window(1024), [](int64_t) { return false; });
  const int64_t head_dim = std::get<AttentionSpec>(spec.blocks.front().mixer).head_dim;
  // The defaults are those of a file without rope_parameters: one with them must say theta.
  const layers::RopeSpec full = config.rope_of_kind(kFull, head_dim, spec.context, {.theta = 500000});
  const layers::RopeSpec sliding = config.rope_of_kind(kSliding, head_dim, spec.context, {.theta = 10000});
  MoeSpec moe;
  moe.router.experts = config.experts(64);
  moe.router.experts_per_token = config.experts_per_token(8);
  moe.router.renormalise = config.keys.boolean("norm_topk_prob", true);
  moe.hidden = config.keys.integer("moe_intermediate_size", 896);
  const std::vector<bool> sparse = config.sparse_layers(spec, [](int64_t) { return true; });
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    attention.qk_norm = AttentionSpec::QkNorm::per_head;
    attention.rope = attention.window > 0 ? sliding : full;
    if (!sparse[i]) continue;
    moe.activation = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).activation;
    spec.blocks[i].ffn = moe;
  }
  spec.router_aux_loss = config.router_aux_loss(0.001);
  config.keys.inert({"num_nextn_predict_layers", "num_mtp_layers", "mtp_layer_types", "mtp_mlp_layer_types"});
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  metadata.set_windows(spec, metadata.integer("attention.sliding_window", 0), 4);
  metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length"), .renormalise = true});
  const double local = metadata.number("rope.freq_base_swa", metadata.number("rope.freq_base", 10000.0));
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.qk_norm = AttentionSpec::QkNorm::per_head;
    if (attention.window == 0) continue;
    attention.rope->theta = local;
    attention.rope->scaling = layers::RopeSpec::Scaling::none, attention.rope->factor = 1;
  }
  return spec;
}

/// The head's block slides (mtp_layer_types), whatever the last one does.
BlockSpec prediction_block(const ModelSpec& spec) {
  BlockSpec found = spec.blocks.back();
  for (const BlockSpec& block : spec.blocks)
    if (std::get<AttentionSpec>(block.mixer).window > 0) found = block;
  return found;
}

NameTable names() {
  NameTable table = hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj");
  table.inert.push_back("mtp.*");  // multi-token prediction
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  config.experts("num_experts");
  const MoeSpec& moe = *first_moe(spec);
  config.json["moe_intermediate_size"] = moe.hidden;
  config.json["norm_topk_prob"] = moe.router.renormalise;
  config.json["layer_types"] = config.layer_types();
  config.sliding_window();
  if (config.window() == 0) config.json.erase("sliding_window");
  base::Json kinds = base::Json::object();
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<AttentionSpec>(block.mixer);
    config.rope(*attention.rope);
    base::Json rope = {{"rope_type", "default"}};
    if (const auto scaling = config.json.find("rope_scaling"); scaling != config.json.end() && !scaling->is_null())
      rope = *scaling;
    rope["rope_theta"] = config.json["rope_theta"];
    kinds[std::string(attention.window > 0 ? kSliding : kFull)] = rope;
    config.json.erase("rope_scaling");
  }
  config.json.erase("rope_theta");
  config.json["rope_parameters"] = kinds;
  config.expert_layers();
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  metadata.window_pattern(spec);
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<AttentionSpec>(block.mixer);
    if (attention.window == 0) metadata.rope(*attention.rope);
    metadata.put(attention.window > 0 ? "rope.freq_base_swa" : "rope.freq_base", attention.rope->theta);
  }
}

constexpr PredictionForm kPrediction = {.block = prediction_block};

}  // namespace

const Family kMellum = {
    .model_type = "mellum",
    .architecture = "mellum",
    .class_name = "MellumForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .says = deepseek::has_experts,
    .prediction = &kPrediction,
};

}  // namespace coterie::families
