#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"

// Gemma 2 (arXiv:2408.00118): RMSNorms of (1 + w) before and after each half of a block, embeddings times the root of
// the width, tanh-GELU, every other layer of a sliding window, scores and logits squeezed by softcaps. Gemma 3
// (arXiv:2503.19786): five sliding layers to a full one, each kind with rotary positions of its own, q/k norms in place
// of the softcaps. Text only.
namespace coterie::families {

namespace {

using layers::AttentionSpec;

constexpr std::string_view kFull = "full_attention", kSliding = "sliding_attention";

/// What both have in common, from `offset` of the norms on: 1 in a checkpoint, 0 in GGUF, whose converter adds it.
void gemma_blocks(ModelSpec& spec, float offset) {
  spec.embedding_multiplier = static_cast<float>(std::sqrt(static_cast<double>(spec.width)));
  spec.final_norm.weight_offset = offset;
  for (BlockSpec& block : spec.blocks) {
    block.mixer_norm = block.mixer_post_norm = block.ffn_norm = block.ffn_post_norm = spec.final_norm;
    std::get<AttentionSpec>(block.mixer).qk_norm_offset = offset;
  }
}

/// Biases, the scale of q·k, softcaps and the activation, from a config.
void common_keys(ConfigReader& config, ModelSpec& spec, std::optional<double> scores_cap, std::optional<double> cap) {
  config.set_attention_biases(spec);
  const double scalar = config.keys.number("query_pre_attn_scalar", 256.0);
  if (!(scalar > 0)) base::fail(base::ErrorKind::bad_input, config.keys.where(), "query_pre_attn_scalar is {}", scalar);
  const auto softcap = [&](std::string_view key, std::optional<double> otherwise) {
    if (config.is_null(key)) otherwise.reset();
    const double value = config.keys.number(key, otherwise.value_or(0));
    if (value < 0 || (value == 0 && config.keys.has(key)))
      base::fail(base::ErrorKind::bad_input, config.keys.where(), "{} is {}: expected a number above 0, or null", key,
                 value);
    return static_cast<float>(value);
  };
  const float scores = softcap("attn_logit_softcapping", scores_cap), logits = softcap("final_logit_softcapping", cap);
  if (logits > 0) spec.logits_softcap = logits;
  const ops::Activation activation = config.activation("hidden_activation", "gelu_pytorch_tanh");
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.scale = static_cast<float>(std::pow(scalar, -0.5));
    attention.softcap = scores;
    std::get<layers::DenseFfnSpec>(block.ffn).activation = activation;
  }
  if (config.keys.boolean("use_bidirectional_attention", false))
    base::fail(base::ErrorKind::unsupported, config.keys.where(),
               "use_bidirectional_attention is true: attention to later tokens is not supported");
  // Old files carry an hidden_act that the reference does not look at, and the cache's kind.
  config.keys.inert({"hidden_act", "cache_implementation"});
}

ModelSpec gemma2_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 256000,
                                   .width = 2304,
                                   .layers = 26,
                                   .heads = 8,
                                   .kv_heads = 4,
                                   .head_dim = 256,
                                   .hidden = 9216,
                                   .context = 8192,
                                   .tied = true});
  gemma_blocks(spec, 1);
  common_keys(config, spec, 50.0, 30.0);
  config.set_windows(spec, config.sliding_window(4096), [](int64_t layer) { return layer % 2 == 0; });
  return spec;
}

/// rope_parameters by kind of layer; or as old files have it, rope_theta and rope_scaling for full layers and
/// rope_local_base_freq for sliding ones.
void set_ropes(ConfigReader& config, ModelSpec& spec) {
  const base::Json* both = config.keys.object("rope_parameters");
  const base::Json* scaling = config.keys.object("rope_scaling");
  const auto one = [&](std::string_view kind, double theta, const base::Json* more) {
    base::Json parameters = base::Json::object();
    if (both && both->contains(kind) && (*both)[std::string(kind)].is_object()) parameters = (*both)[std::string(kind)];
    if (more) parameters.update(*more);
    const auto& attention = std::get<AttentionSpec>(spec.blocks.front().mixer);
    return config.rope_of(parameters, "the rotary parameters of " + std::string(kind), attention.head_dim, spec.context,
                          {.theta = theta});
  };
  if (both)
    for (const auto& [key, value] : both->items())
      if (key != kFull && key != kSliding)
        base::fail(base::ErrorKind::unsupported, config.keys.where(),
                   "rope_parameters has \"{}\": expected full_attention and sliding_attention, each with its own", key);
  const layers::RopeSpec full = one(kFull, config.keys.number("rope_theta", 1e6), scaling);
  const layers::RopeSpec sliding = one(kSliding, config.keys.number("rope_local_base_freq", 1e4), nullptr);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.rope = attention.window > 0 ? sliding : full;
  }
}

ModelSpec gemma3_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 262208,
                                   .width = 2304,
                                   .layers = 26,
                                   .heads = 8,
                                   .kv_heads = 4,
                                   .head_dim = 256,
                                   .hidden = 9216,
                                   .context = 131072,
                                   .tied = true,
                                   .rope_by_layer = true});
  gemma_blocks(spec, 1);
  common_keys(config, spec, {}, {});
  if (config.keys.has("attn_logit_softcapping"))
    config.warnings.push_back(config.keys.where() +
                              ": attn_logit_softcapping has no effect on gemma3_text, as in the reference");
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.qk_norm = AttentionSpec::QkNorm::per_head, attention.softcap = 0;
  }
  const int64_t pattern = config.keys.integer("sliding_window_pattern", 6);
  if (pattern < 1)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "sliding_window_pattern is {}: expected at least 1",
               pattern);
  config.keys.inert({"_sliding_window_pattern"});  // what the reference writes beside the layer_types it made of it
  config.set_windows(spec, config.sliding_window(4096), [&](int64_t layer) { return (layer + 1) % pattern != 0; });
  set_ropes(config, spec);
  return spec;
}

// llama.cpp knows the scale by the model: the root of the head's width, but for 27B that of width / heads.
void set_scales(ModelSpec& spec, size_t layers_of_27b) {
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    const int64_t scalar = spec.blocks.size() == layers_of_27b ? spec.width / attention.heads : attention.head_dim;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(scalar));
    std::get<layers::DenseFfnSpec>(block.ffn).activation = ops::Activation::gelu_tanh;
  }
}

ModelSpec gemma2_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  gemma_blocks(spec, 0);
  set_scales(spec, 46);
  const auto scores = static_cast<float>(metadata.number("attn_logit_softcapping", 50.0));
  const auto logits = static_cast<float>(metadata.number("final_logit_softcapping", 30.0));
  if (logits > 0) spec.logits_softcap = logits;
  for (BlockSpec& block : spec.blocks) std::get<AttentionSpec>(block.mixer).softcap = scores;
  metadata.set_windows(spec, metadata.integer("attention.sliding_window", 4096), 2);
  return spec;
}

ModelSpec gemma3_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  gemma_blocks(spec, 0);
  set_scales(spec, 62);
  const auto logits = static_cast<float>(metadata.number("final_logit_softcapping", 0.0));
  if (logits > 0) spec.logits_softcap = logits;
  metadata.set_windows(spec, metadata.integer("attention.sliding_window", 0), 6);
  const double local = metadata.number("rope.freq_base_swa", 1e4);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.qk_norm = AttentionSpec::QkNorm::per_head;
    if (attention.window == 0) continue;
    attention.rope->theta = local;
    attention.rope->scaling = layers::RopeSpec::Scaling::none;
  }
  return spec;
}

NameTable gemma_names() {
  NameTable table = hugging_face_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  table.names[path + "mixer_post_norm"] = {{layer + "post_attention_layernorm.weight"}};
  table.names[path + "ffn_norm"] = {{layer + "pre_feedforward_layernorm.weight"}};
  table.names[path + "ffn_post_norm"] = {{layer + "post_feedforward_layernorm.weight"}};
  return table;
}

void gemma_to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  const AttentionSpec& attention = config.attention();
  const double scalar = 1 / (static_cast<double>(attention.scale) * static_cast<double>(attention.scale));
  // The reference takes whole numbers only.
  config.json["query_pre_attn_scalar"] =
      std::abs(scalar - std::round(scalar)) < 1e-3 ? base::Json(std::llround(scalar)) : base::Json(scalar);
  const auto cap = [](float value) { return value > 0 ? base::Json(decimal(value)) : base::Json(nullptr); };
  config.json["final_logit_softcapping"] = cap(spec.logits_softcap.value_or(0));
  config.json["attn_logit_softcapping"] = cap(attention.softcap);
  config.json["hidden_activation"] = config.json["hidden_act"];
  config.json["layer_types"] = config.layer_types();
  if (config.window() > 0) config.sliding_window();
}

void gemma2_to_config(const ModelSpec& spec, ConfigWriter& config) { gemma_to_config(spec, config); }

void gemma3_to_config(const ModelSpec& spec, ConfigWriter& config) {
  gemma_to_config(spec, config);
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<AttentionSpec>(block.mixer);
    if (!attention.rope) continue;
    if (attention.window == 0)
      config.rope(*attention.rope);
    else
      config.json["rope_local_base_freq"] = decimal(attention.rope->theta);
  }
}

void gemma2_to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  metadata.erase("embedding_scale");  // always the root of the width
  metadata.window_pattern(spec);
}

void gemma3_to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  gemma2_to_gguf(spec, metadata);
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<AttentionSpec>(block.mixer);
    if (!attention.rope) continue;
    if (attention.window == 0) metadata.rope(*attention.rope);
    metadata.put(attention.window > 0 ? "rope.freq_base_swa" : "rope.freq_base", attention.rope->theta);
  }
}

}  // namespace

const Family kGemma2 = {
    .model_type = "gemma2",
    .architecture = "gemma2",
    .class_name = "Gemma2ForCausalLM",
    .from_config = gemma2_from_config,
    .from_gguf = gemma2_from_gguf,
    .hugging_face_names = gemma_names,
    .to_config = gemma2_to_config,
    .to_gguf = gemma2_to_gguf,
};
const Family kGemma3 = {
    .model_type = "gemma3_text",
    .architecture = "gemma3",
    .class_name = "Gemma3ForCausalLM",
    .from_config = gemma3_from_config,
    .from_gguf = gemma3_from_gguf,
    .hugging_face_names = gemma_names,
    .to_config = gemma3_to_config,
    .to_gguf = gemma3_to_gguf,
};

}  // namespace coterie::families
