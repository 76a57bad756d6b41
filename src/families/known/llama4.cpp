#include <algorithm>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"

// Llama 4 (Meta 2025): layers with interleaved rotary positions, which see their own chunk of the sequence only and
// whose rotated queries and keys have norms without weights, three for each layer without positions, which sees
// everything and whose queries grow with the position; experts that read the token times the sigmoid of its logit,
// beside a shared one.
namespace coterie::families {

namespace {

using layers::AttentionSpec;
using layers::MoeSpec;

void set_positions(AttentionSpec& attention, bool rotated, bool normed, bool tempered,
                   const AttentionSpec::Temperature& by) {
  if (rotated) {
    attention.rope->style = ops::RopeTable::Style::interleaved;
    if (normed) attention.qk_norm = AttentionSpec::QkNorm::per_head_plain, attention.qk_norm_after_rope = true;
    return;
  }
  attention.rope.reset();
  if (tempered) attention.temperature = by;
}

MoeSpec experts_of(int64_t experts, int64_t chosen, int64_t hidden) {
  MoeSpec moe;
  moe.router.experts = experts, moe.router.experts_per_token = chosen;
  moe.router.order = layers::RouterSpec::Order::select_then_score;
  moe.router.score = layers::RouterSpec::Score::sigmoid;
  moe.hidden = moe.shared_hidden = hidden;
  moe.scale_inputs = true;
  return moe;
}

/// A number for each layer of what is a list in the file, or else by `rule`.
template <typename Rule>
std::vector<bool> layers_of(ConfigReader& config, std::string_view key, size_t layers, const Rule& rule) {
  const std::vector<int64_t> given = config.keys.integers(key);
  if (!given.empty() && given.size() != layers)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "{} has {} entries for {} layers", key, given.size(),
               layers);
  std::vector<bool> result;
  for (size_t i = 0; i < layers; ++i) result.push_back(given.empty() ? rule(static_cast<int64_t>(i)) : given[i] != 0);
  return result;
}

void set_chunks(ConfigReader& config, ModelSpec& spec, const std::vector<bool>& rotated) {
  const bool none = config.is_null("attention_chunk_size");
  const int64_t chunk = none ? 0 : config.keys.integer("attention_chunk_size", 8192);
  config.keys.inert({"attention_chunk_size"});
  if (!none && chunk < 1)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "attention_chunk_size is {}", chunk);
  const std::vector<std::string> types = config.keys.strings("layer_types");
  if (!types.empty() && types.size() != spec.blocks.size())
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "layer_types has {} entries for {} layers",
               types.size(), spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const bool chunked = types.empty() ? rotated[i] && !none : types[i] == "chunked_attention";
    if (!types.empty() && !chunked && types[i] != "full_attention")
      base::fail(base::ErrorKind::unsupported, config.keys.where(),
                 "layer_types[{}] is \"{}\": expected chunked_attention or full_attention", i, types[i]);
    if (chunked && none)
      base::fail(base::ErrorKind::bad_input, config.keys.where(),
                 "layer {} has chunks, but attention_chunk_size is null", i);
    if (chunked) std::get<AttentionSpec>(spec.blocks[i].mixer).chunk = chunk;
  }
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 202048,
                                   .width = 5120,
                                   .layers = 48,
                                   .heads = 40,
                                   .kv_heads = 8,
                                   .head_dim = 128,
                                   .hidden = 8192,
                                   .context = 131072,
                                   .eps = 1e-5,
                                   .theta = 500000});
  config.set_attention_biases(spec);
  const size_t layers = spec.blocks.size();
  const int64_t interval = config.keys.integer("no_rope_layer_interval", 4);
  const int64_t step = config.keys.integer("interleave_moe_layer_step", 1);
  if (interval < 1 || step < 1)
    base::fail(base::ErrorKind::bad_input, config.keys.where(),
               "no_rope_layer_interval {} and interleave_moe_layer_step {}: expected both from 1 on", interval, step);
  const std::vector<bool> rotated =
      layers_of(config, "no_rope_layers", layers, [&](int64_t layer) { return (layer + 1) % interval != 0; });
  set_chunks(config, spec, rotated);
  const bool normed = config.keys.boolean("use_qk_norm", true);
  const bool tempered = config.keys.boolean("attn_temperature_tuning", true);
  const AttentionSpec::Temperature temperature = {static_cast<float>(config.keys.number("attn_scale", 0.1)),
                                                  static_cast<float>(config.keys.number("floor_scale", 8192))};
  const auto& dense = std::get<layers::DenseFfnSpec>(spec.blocks.front().ffn);
  MoeSpec moe = experts_of(config.experts(16), config.experts_per_token(1), dense.hidden);
  moe.activation = dense.activation;
  const int64_t dense_hidden = config.keys.integer("intermediate_size_mlp", 16384);
  const std::vector<int64_t> listed = config.keys.integers("moe_layers");
  const bool by_list = config.keys.has("moe_layers");
  for (size_t i = 0; i < layers; ++i) {
    const auto layer = static_cast<int64_t>(i);
    set_positions(std::get<AttentionSpec>(spec.blocks[i].mixer), rotated[i], normed, tempered, temperature);
    const bool sparse =
        by_list ? std::find(listed.begin(), listed.end(), layer) != listed.end() : (layer + 1) % step == 0;
    if (sparse)
      spec.blocks[i].ffn = moe;
    else
      std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).hidden = dense_hidden;
  }
  if (config.keys.boolean("output_router_logits", false))
    config.warnings.push_back(config.keys.where() +
                              ": output_router_logits adds nothing to the loss of llama4_text, as in the reference");
  config.keys.inert({"for_llm_compressor"});
  return spec;
}

// llama.cpp has the sizes of the published models in code: chunks and a period of 8192, every fourth layer without
// positions; and no norms of queries and keys in the model of 128 experts.
ModelSpec from_gguf(MetadataReader& metadata) {
  constexpr int64_t kChunk = 8192, kInterval = 4, kExpertsWithoutNorms = 128;
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::interleaved);
  const bool chunks = !metadata.has("attention.sliding_window") || metadata.integer("attention.sliding_window") != 0;
  metadata.integer("interleave_moe_layer_step", 1);  // which layers have a router says it
  const int64_t hidden = metadata.integer("expert_feed_forward_length");
  metadata.set_experts(spec, {.hidden = hidden, .score = layers::RouterSpec::Score::sigmoid});
  const bool normed = metadata.integer("expert_count") != kExpertsWithoutNorms;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    const bool rotated = !chunks || (static_cast<int64_t>(i) + 1) % kInterval != 0;
    set_positions(attention, rotated, normed, true, {0.1f, static_cast<float>(kChunk)});
    if (chunks && rotated) attention.chunk = kChunk;
    if (auto* moe = std::get_if<MoeSpec>(&spec.blocks[i].ffn))
      *moe = experts_of(moe->router.experts, moe->router.experts_per_token, hidden);
  }
  return spec;
}

NameTable names() {
  NameTable table = hugging_face_names();
  const std::string ffn = "model.layers.{layer}.feed_forward.", path = "blocks.{layer}.";
  for (const std::string part : {"gate", "up", "down"}) {
    table.names[path + "ffn." + part] = {{ffn + part + "_proj.weight"}};
    table.names[path + "moe.shared." + part] = {{ffn + "shared_expert." + part + "_proj.weight"}};
  }
  table.names[path + "moe.router"] = {{ffn + "router.weight"}};
  table.names[path + "moe.experts.gate"] = {{ffn + "experts.gate_up_proj", Piece::first_half, false, Form::transposed}};
  table.names[path + "moe.experts.up"] = {{ffn + "experts.gate_up_proj", Piece::second_half, false, Form::transposed}};
  table.names[path + "moe.experts.down"] = {{ffn + "experts.down_proj", Piece::whole, false, Form::transposed}};
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  config.experts("num_local_experts");
  config.json["intermediate_size"] = first_moe(spec)->hidden;
  config.json["intermediate_size_mlp"] = config.dense_width();
  config.json["attn_temperature_tuning"] = false;
  config.json["attention_chunk_size"] = nullptr;
  config.json["use_qk_norm"] = false;
  base::Json rotated = base::Json::array(), types = base::Json::array(), sparse = base::Json::array();
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    rotated.push_back(attention.rope ? 1 : 0);
    types.push_back(attention.chunk > 0 ? "chunked_attention" : "full_attention");
    if (attention.chunk > 0) config.json["attention_chunk_size"] = attention.chunk;
    if (attention.qk_norm == AttentionSpec::QkNorm::per_head_plain) config.json["use_qk_norm"] = true;
    if (attention.rope && !config.parent()) config.rope(*attention.rope);
    if (attention.temperature) {
      config.json["attn_temperature_tuning"] = true;
      config.json["attn_scale"] = decimal(attention.temperature->scale);
      config.json["floor_scale"] = static_cast<int64_t>(attention.temperature->period);
    }
    if (std::holds_alternative<MoeSpec>(spec.blocks[i].ffn)) sparse.push_back(i);
  }
  config.json["no_rope_layers"] = rotated, config.json["layer_types"] = types, config.json["moe_layers"] = sparse;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  uint64_t first = 0;
  while (first < spec.blocks.size() && !std::holds_alternative<MoeSpec>(spec.blocks[first].ffn)) ++first;
  metadata.put("interleave_moe_layer_step", first + 1);
  metadata.erase("expert_shared_feed_forward_length");
  const auto chunked = [](const BlockSpec& block) { return std::get<AttentionSpec>(block.mixer).chunk > 0; };
  if (std::none_of(spec.blocks.begin(), spec.blocks.end(), chunked))
    metadata.put("attention.sliding_window", uint64_t{0});
  for (const BlockSpec& block : spec.blocks)
    if (const auto& attention = std::get<AttentionSpec>(block.mixer); attention.rope) metadata.rope(*attention.rope);
}

constexpr Multimodal kMultimodal[] = {{.model_type = "llama4"}};

}  // namespace

const Family kLlama4 = {
    .model_type = "llama4_text",
    .architecture = "llama4",
    .class_name = "Llama4ForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .multimodal = kMultimodal,
};

}  // namespace coterie::families
