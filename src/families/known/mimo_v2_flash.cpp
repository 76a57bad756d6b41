#include <cmath>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// MiMo-V2-Flash (Xiaomi 2025, arXiv:2601.02780): five layers of a short window with sinks to a full one, which has half
// as many heads of keys and values; values narrower than keys and times a constant; DeepSeek-V3's router without a
// shared expert.
namespace coterie::families {

namespace {

using layers::AttentionSpec;

constexpr double kPartial = 0.334, kFullTheta = 5e6, kSlidingTheta = 1e4;

bool full_by_rule(int64_t layer) { return layer == 0 || (layer + 1) % 6 == 0; }

void set_layers(ConfigReader& config, ModelSpec& spec) {
  // By SGLang's count the window is beside the query.
  std::optional<int64_t> window = config.sliding_window(129);
  if (config.keys.has("sliding_window_size")) window = config.keys.integer("sliding_window_size") + 1;
  config.set_windows(spec, window, [](int64_t layer) { return !full_by_rule(layer); });
  const bool bias = config.keys.boolean("attention_bias", false);
  const int64_t value_dim = config.keys.integer("v_head_dim", 128);
  const double value_scale =
      config.is_null("attention_value_scale") ? 1.0 : config.keys.number("attention_value_scale", 0.707);
  config.keys.inert({"attention_value_scale"});
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    const bool slides = attention.window > 0;
    attention.q_bias = attention.k_bias = attention.v_bias = bias;
    attention.value_dim = value_dim, attention.value_scale = static_cast<float>(value_scale);
    if (slides) attention.kv_heads *= 2;
    attention.sinks = slides;
    attention.rope =
        config.rope_of_kind(slides ? "sliding_attention" : "full_attention", attention.head_dim, spec.context,
                            {.theta = slides ? kSlidingTheta : kFullTheta, .partial_rotary = kPartial});
  }
}

// What published configs say in other words, of which the reference reads none.
void check_published_keys(ConfigReader& config, const ModelSpec& spec) {
  std::vector<int> slides, sparse;
  for (const BlockSpec& block : spec.blocks) {
    slides.push_back(std::get<AttentionSpec>(block.mixer).window > 0 ? 1 : 0);
    sparse.push_back(std::holds_alternative<layers::MoeSpec>(block.ffn) ? 1 : 0);
  }
  const auto& first = std::get<AttentionSpec>(spec.blocks.front().mixer);
  config.expect("hybrid_layer_pattern", slides), config.expect("moe_layer_freq", sparse);
  config.expect("swa_num_key_value_heads", first.window > 0 ? first.kv_heads : 2 * first.kv_heads);
  config.expect("swa_num_attention_heads", first.heads);
  config.expect("swa_head_dim", first.head_dim), config.expect("swa_v_head_dim", first.value_dim);
  config.expect("add_swa_attention_sink_bias", true), config.expect("add_full_attention_sink_bias", false);
  config.expect("swa_rope_theta", kSlidingTheta), config.expect("layernorm_epsilon", 1e-5);
  config.expect("rope_theta", kFullTheta), config.expect("partial_rotary_factor", kPartial);
  config.expect("n_shared_experts", 0);
  config.keys.inert({"attention_chunk_size", "hybrid_block_size", "n_shared_experts", "attention_projection_layout"});
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 152576,
                                   .width = 4096,
                                   .layers = 48,
                                   .heads = 64,
                                   .kv_heads = 4,
                                   .head_dim = 192,
                                   .hidden = 16384,
                                   .context = 131072,
                                   .eps = 1e-5,
                                   .rope_by_layer = true});
  set_layers(config, spec);
  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(
      config, {.experts = 256, .experts_per_token = 8, .groups = 1, .groups_kept = 1, .scale = 1.0});
  moe.hidden = config.keys.integer("moe_intermediate_size", 2048);
  const std::vector<bool> sparse = config.sparse_layers(spec, [](int64_t layer) { return layer > 0; });
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    if (!sparse[i]) continue;
    moe.activation = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).activation;
    spec.blocks[i].ffn = moe;
  }
  check_published_keys(config, spec);
  spec.prediction_before_norm = true;
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  // llama.cpp's converter writes numbers, one a layer.
  const std::vector<int64_t> slides = metadata.per_layer("attention.sliding_window_pattern", spec.blocks.size(), 0);
  const double theta = metadata.number("rope.freq_base_swa", kSlidingTheta);
  const auto value_scale = static_cast<float>(metadata.number("attention.value_scale", 1.0));
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    attention.window = slides[i] != 0 ? metadata.integer("attention.sliding_window") : 0;
    attention.value_scale = value_scale == 0 ? 1 : value_scale;
    attention.sinks = metadata.has_tensor("blk." + std::to_string(i) + ".attn_sinks.weight");
    if (attention.window > 0) attention.rope->theta = theta;
  }
  metadata.integer("leading_dense_block_count", 0);
  metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length"),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = deepseek::has_selection_bias(metadata, spec),
                              .groups = true});
  deepseek::drop_prediction_layers(metadata, spec);
  spec.prediction_before_norm = true;
  return spec;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  std::vector<uint64_t> kv_heads;
  uint64_t dense = 0;
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<AttentionSpec>(block.mixer);
    kv_heads.push_back(static_cast<uint64_t>(attention.kv_heads));
    if (std::holds_alternative<layers::DenseFfnSpec>(block.ffn) && dense + 1 == kv_heads.size()) ++dense;
    metadata.put(attention.window > 0 ? "rope.freq_base_swa" : "rope.freq_base", attention.rope->theta);
    if (attention.value_scale != 1) metadata.put("attention.value_scale", static_cast<double>(attention.value_scale));
  }
  metadata.put("attention.head_count_kv", kv_heads);
  metadata.put("leading_dense_block_count", dense);
  metadata.window_pattern(spec);
}

NameTable names() {
  NameTable table = deepseek::expert_names();
  const std::string layer = "model.layers.{layer}.self_attn.";
  table.names["blocks.{layer}.attention.sinks"] = {{layer + "attention_sink_bias"}, {layer + "sinks"}};
  table.inert.push_back("model.mtp.*");  // layers for multi-token prediction
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  for (const char* key : {"rope_theta", "rope_scaling"}) config.json.erase(key);
  deepseek::experts_to_config(spec, config);
  for (const char* key : {"n_shared_experts", "first_k_dense_replace"}) config.json.erase(key);
  config.expert_layers();
  config.json["layer_types"] = config.layer_types();
  config.sliding_window();
  config.attention_bias();
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<AttentionSpec>(block.mixer);
    const bool slides = attention.window > 0;
    config.json["num_key_value_heads"] = slides ? attention.kv_heads / 2 : attention.kv_heads;
    config.json["v_head_dim"] = attention.value_dim;
    config.json["attention_value_scale"] = decimal(attention.value_scale);
    config.json["rope_parameters"][slides ? "sliding_attention" : "full_attention"] = {
        {"rope_type", "default"},
        {"rope_theta", decimal(attention.rope->theta)},
        {"partial_rotary_factor", static_cast<double>(attention.rope->dims) / static_cast<double>(attention.head_dim)}};
  }
}

/// As Xiaomi published it for SGLang (mimo_v2_flash_nextn.py): a layer with the window, the sinks and the heads of the
/// others that slide, and a dense FFN as wide as the model's.
BlockSpec prediction_block(const ModelSpec& spec) {
  const BlockSpec *slides = nullptr, *dense = nullptr;
  for (const BlockSpec& block : spec.blocks) {
    if (std::get<AttentionSpec>(block.mixer).window > 0) slides = &block;
    if (std::holds_alternative<layers::DenseFfnSpec>(block.ffn)) dense = &block;
  }
  if (!slides || !dense)
    base::fail(
        base::ErrorKind::unsupported, spec.family.shown(),
        "its head for multi-token prediction is a layer with a window and a dense FFN, and the model has no such "
        "attention or no such FFN, of which the head would have the sizes");
  BlockSpec block = *slides;
  block.ffn = dense->ffn;
  return block;
}

/// Of the three heads the first. GGUF files have it as a layer after the last.
void prediction_names(NameTable& table, const checkpoint::TensorSource* source, int64_t layers) {
  const bool gguf = source && source->format() == checkpoint::Format::gguf;
  const std::string head = gguf ? fmt::format("blk.{}.", layers) : "model.mtp.layers.0.";
  const std::string own = gguf ? head + "nextn." : head;
  move_layer(table, [&](std::string_view) { return head; });
  table.names["prediction.embedding_norm"] = {{own + "enorm.weight"}};
  table.names["prediction.hidden_norm"] = {{own + "hnorm.weight"}};
  table.names["prediction.projection"] = {{own + "eh_proj.weight"}};
  table.names["final_norm"] = {{head + (gguf ? "layer_output_norm.weight" : "final_layernorm.weight")}};
  if (gguf && source->find(own + "shared_head_norm.weight"))
    table.names["final_norm"] = {{own + "shared_head_norm.weight"}};
  if (!gguf) table.names["blocks.{layer}.ffn_norm"] = {{head + "pre_mlp_layernorm.weight"}};
}

constexpr PredictionForm kPrediction = {.block = prediction_block, .names = prediction_names};

}  // namespace

const Family kMiMoV2Flash = {
    .model_type = "mimo_v2_flash",
    .architecture = "mimo2",
    .class_name = "MiMoV2FlashForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .prediction = &kPrediction,
};

}  // namespace coterie::families
