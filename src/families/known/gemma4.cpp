#include <cmath>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"

// Gemma 4 (Google 2026), text: norms before and after each half of a block, five sliding layers to a full one, which
// has wider heads, fewer of them for keys, keys that serve as values and a rotary embedding of which three quarters
// stand still. In the 26B-A4B a dense FFN runs beside the experts, each with norms of its own, and the router reads the
// stream behind another; what an expert gives has a weight of the expert's own.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;
using layers::AttentionSpec;

constexpr const char *kFull = "full_attention", *kSliding = "sliding_attention";

/// What no config or metadata says.
void set_blocks(ModelSpec& spec) {
  spec.embedding_multiplier = static_cast<float>(std::sqrt(static_cast<double>(spec.width)));
  for (BlockSpec& block : spec.blocks) {
    block.mixer_norm = block.mixer_post_norm = block.ffn_norm = block.ffn_post_norm = spec.final_norm;
    block.output_scale = true;
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.qk_norm = AttentionSpec::QkNorm::per_head, attention.value_norm = true;
    attention.scale = 1;
  }
}

/// The dense FFN of a block becomes what stands beside its experts.
void set_experts(BlockSpec& block, layers::MoeSpec moe, const layers::NormSpec& norm) {
  moe.router.renormalise = true, moe.router.renormalise_epsilon = 0;
  moe.router.input_norm = norm.eps, moe.router.expert_scale = true;
  moe.shared_norm = moe.shared_post_norm = moe.experts_norm = moe.experts_post_norm = norm;
  const auto& dense = std::get<layers::DenseFfnSpec>(block.ffn);
  moe.shared_hidden = dense.hidden, moe.activation = dense.activation;
  block.ffn = moe, block.ffn_norm.reset();
}

/// per_layer_config: what layers have in place of head_dim and num_key_value_heads; or, as published, the same for all
/// full layers by keys of their own.
void set_heads(ConfigReader& config, ModelSpec& spec, bool keys_are_values) {
  const base::Json* const by_layer = config.keys.object("per_layer_config");
  const int64_t head_dim = config.keys.integer("global_head_dim", 512);
  const int64_t kv_heads =
      config.is_null("num_global_key_value_heads") ? 0 : config.keys.integer("num_global_key_value_heads", 0);
  config.keys.inert({"num_global_key_value_heads"});
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    if (by_layer) {
      const auto found = by_layer->find(std::to_string(i));
      if (found == by_layer->end()) continue;
      base::JsonReader own(*found, config.keys.where() + ": per_layer_config of layer " + std::to_string(i));
      attention.head_dim = attention.value_dim = own.integer("head_dim", attention.head_dim);
      attention.kv_heads = own.integer("num_key_value_heads", attention.kv_heads);
      for (const std::string& key : own.unread())
        fail(ErrorKind::unsupported, own.where(), "key \"{}\" is not supported by layer", key);
    } else if (attention.window == 0) {
      attention.head_dim = attention.value_dim = head_dim;
      if (kv_heads > 0 && keys_are_values) attention.kv_heads = kv_heads;
    }
  }
}

/// Of a "proportional" one the frequencies go by the whole head, and the pairs after partial_rotary_factor of it have
/// none.
layers::RopeSpec rope_of(ConfigReader& config, const base::Json& given, const char* kind, int64_t head_dim,
                         int64_t context, double theta) {
  base::Json parameters = given;
  if (parameters.value("rope_type", "default") != "proportional")
    return config.rope_of(parameters, std::string("rope_parameters of ") + kind, head_dim, context, {.theta = theta});
  const base::Json partial = parameters.value("partial_rotary_factor", base::Json(1.0));
  if (!partial.is_number() || !(partial.get<double>() > 0 && partial.get<double>() <= 1))
    fail(ErrorKind::bad_input, config.keys.where(), "partial_rotary_factor of {} is {}: expected a share of the head",
         kind, partial.dump());
  parameters["rope_type"] = parameters.contains("factor") ? "linear" : "default";
  parameters.erase("partial_rotary_factor");
  layers::RopeSpec rope =
      config.rope_of(parameters, std::string("rope_parameters of ") + kind, head_dim, context, {.theta = theta});
  rope.turning_dims = 2 * (static_cast<int64_t>(partial.get<double>() * static_cast<double>(head_dim)) / 2);
  return rope;
}

void set_ropes(ConfigReader& config, ModelSpec& spec) {
  static const base::Json kDefaults = {
      {kSliding, {{"rope_type", "default"}, {"rope_theta", 1e4}}},
      {kFull, {{"rope_type", "proportional"}, {"partial_rotary_factor", 0.25}, {"rope_theta", 1e6}}}};
  const base::Json* const given = config.keys.object("rope_parameters");
  const base::Json& by_kind = given ? *given : kDefaults;
  for (const auto& [key, value] : by_kind.items())
    if ((key != kFull && key != kSliding) || !value.is_object())
      fail(ErrorKind::unsupported, config.keys.where(),
           "rope_parameters has \"{}\": expected full_attention and sliding_attention, each with its own", key);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    const char* const kind = attention.window > 0 ? kSliding : kFull;
    if (!by_kind.contains(kind))
      fail(ErrorKind::not_found, config.keys.where(), "rope_parameters has no {}, which a layer is", kind);
    attention.rope = rope_of(config, by_kind[kind], kind, attention.head_dim, spec.context, 1e4);
  }
}

void refuse_other_models(ConfigReader& config) {
  if (config.keys.integer("hidden_size_per_layer_input", 256) != 0 && !config.is_null("hidden_size_per_layer_input"))
    fail(ErrorKind::unsupported, config.keys.where(),
         "hidden_size_per_layer_input is not 0: embeddings for each layer (Gemma 4 E2B, E4B) are not supported; "
         "26B-A4B and 31B are");
  if (const int64_t shared = config.keys.integer("num_kv_shared_layers", 0); shared != 0)
    fail(ErrorKind::unsupported, config.keys.where(),
         "num_kv_shared_layers is {}: layers that read the keys and values of others are not supported", shared);
  const base::Json* const both = config.keys.value("use_bidirectional_attention");
  if (both && !both->is_null() && *both != "vision")
    fail(ErrorKind::unsupported, config.keys.where(),
         "use_bidirectional_attention is {}: attention to later tokens is not supported", both->dump());
  config.keys.inert({"vocab_size_per_layer_input", "use_double_wide_mlp", "hidden_act", "hidden_size_per_layer_input"});
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 262144,
                                   .width = 2304,
                                   .layers = 30,
                                   .heads = 8,
                                   .kv_heads = 4,
                                   .head_dim = 256,
                                   .hidden = 9216,
                                   .context = 131072,
                                   .tied = true,
                                   .rope_by_layer = true});
  refuse_other_models(config);
  config.set_attention_biases(spec);
  config.set_windows(spec, config.sliding_window(512), [](int64_t layer) { return (layer + 1) % 6 != 0; });
  std::get<AttentionSpec>(spec.blocks.back().mixer).window = 0;  // whatever the list says, as in the reference
  set_blocks(spec);
  const bool keys_are_values = config.keys.boolean("attention_k_eq_v", false);
  set_heads(config, spec, keys_are_values);
  set_ropes(config, spec);
  const ops::Activation activation = config.activation("hidden_activation", "gelu_pytorch_tanh");
  for (BlockSpec& block : spec.blocks) {
    std::get<layers::DenseFfnSpec>(block.ffn).activation = activation;
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.values_are_keys = keys_are_values && attention.window == 0;
    if (attention.values_are_keys) attention.v_bias = false;
  }
  if (!config.is_null("final_logit_softcapping"))
    if (const double cap = config.keys.number("final_logit_softcapping", 0.0); cap > 0)
      spec.logits_softcap = static_cast<float>(cap);
  config.keys.inert({"final_logit_softcapping"});
  if (!config.keys.boolean("enable_moe_block", false)) {
    config.keys.inert({"num_experts", "top_k_experts", "moe_intermediate_size", "expert_intermediate_size"});
    return spec;
  }
  layers::MoeSpec moe;
  moe.router.experts = config.experts(0), moe.router.experts_per_token = config.experts_per_token(0);
  moe.hidden = config.integer_of({"moe_intermediate_size", "expert_intermediate_size"}, 0);
  for (BlockSpec& block : spec.blocks) set_experts(block, moe, spec.final_norm);
  return spec;
}

/// llama.cpp writes proportional positions as divisors: ones, and then 1e30 for the pairs that stand still.
void read_divisors(layers::RopeSpec& rope) {
  size_t turning = 0;
  while (turning < rope.divisors.size() && rope.divisors[turning] == 1) ++turning;
  for (size_t i = turning; i < rope.divisors.size(); ++i)
    if (rope.divisors[i] < 1e29f) return;
  if (turning < rope.divisors.size()) rope.turning_dims = static_cast<int64_t>(2 * turning);
  rope.divisors.clear();
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  if (const int64_t per_layer = metadata.integer("embedding_length_per_layer_input", 0); per_layer != 0)
    fail(ErrorKind::unsupported, "embedding_length_per_layer_input",
         "is {}: embeddings for each layer (Gemma 4 E2B, E4B) are not supported; 26B-A4B and 31B are", per_layer);
  if (const int64_t shared = metadata.integer("attention.shared_kv_layers", 0); shared != 0)
    fail(ErrorKind::unsupported, "attention.shared_kv_layers",
         "is {}: layers that read the keys and values of others are not supported", shared);
  metadata.set_windows(spec, metadata.integer("attention.sliding_window", 0), 6);
  set_blocks(spec);
  const int64_t head_dim = metadata.integer("attention.key_length_swa", 0);
  metadata.inert({"attention.value_length_swa"});
  const double theta = metadata.number("rope.freq_base_swa", 1e4);
  const int64_t dims = metadata.integer("rope.dimension_count_swa", head_dim);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    BlockSpec& block = spec.blocks[i];
    block.output_scale = metadata.has_tensor(layer + "layer_output_scale.weight");
    std::get<layers::DenseFfnSpec>(block.ffn).activation = ops::Activation::gelu_tanh;
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.values_are_keys = !metadata.has_tensor(layer + "attn_v.weight");
    if (attention.window == 0) {
      read_divisors(*attention.rope);
      continue;
    }
    attention.head_dim = attention.value_dim = head_dim;
    attention.rope->theta = theta, attention.rope->dims = dims;
    attention.rope->scaling = layers::RopeSpec::Scaling::none;
    attention.rope->divisors.clear();
  }
  if (const double cap = metadata.number("final_logit_softcapping", 0.0); cap > 0)
    spec.logits_softcap = static_cast<float>(cap);
  if (metadata.integer("expert_count", 0) == 0) return spec;
  layers::MoeSpec moe;
  moe.router.experts = metadata.integer("expert_count");
  moe.router.experts_per_token = metadata.integer("expert_used_count");
  moe.hidden = metadata.integer("expert_feed_forward_length");
  metadata.inert({"expert_weights_norm"});
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (metadata.has_tensor("blk." + std::to_string(i) + ".ffn_gate_inp.weight"))
      set_experts(spec.blocks[i], moe, spec.final_norm);
  return spec;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  metadata.erase("embedding_scale");  // always the root of the width
  std::vector<uint64_t> kv_heads;
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<AttentionSpec>(block.mixer);
    kv_heads.push_back(static_cast<uint64_t>(attention.kv_heads));
    const std::string end = attention.window > 0 ? "_swa" : "";
    metadata.put("attention.key_length" + end, static_cast<uint64_t>(attention.head_dim));
    metadata.put("attention.value_length" + end, static_cast<uint64_t>(attention.value_dim));
    metadata.put("rope.dimension_count" + end, static_cast<uint64_t>(attention.rope->dims));
    metadata.put("rope.freq_base" + end, attention.rope->theta);
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    if (moe) metadata.put("feed_forward_length", static_cast<uint64_t>(moe->shared_hidden));
  }
  metadata.put("attention.head_count_kv", kv_heads);
  metadata.window_pattern(spec);
  metadata.put("attention.shared_kv_layers", uint64_t{0});
  metadata.put("embedding_length_per_layer_input", uint64_t{0});
  metadata.erase("expert_shared_feed_forward_length"), metadata.erase("expert_weights_norm");
}

void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  const std::string layer = "blk.{layer}.", path = "blocks.{layer}.";
  const auto name = [&](const std::string& ours, const std::string& theirs) {
    table.names[path + ours] = {{layer + theirs}};
  };
  name("ffn_norm", "ffn_norm.weight"), name("moe.shared_norm", "ffn_norm.weight");
  name("moe.shared_post_norm", "post_ffw_norm_1.weight");
  name("moe.experts_norm", "pre_ffw_norm_2.weight"), name("moe.experts_post_norm", "post_ffw_norm_2.weight");
  name("moe.router.norm", "ffn_gate_inp.scale"), name("moe.router.expert_scale", "ffn_down_exps.scale");
  for (const std::string part : {"gate", "up", "down"}) name("moe.shared." + part, "ffn_" + part + ".weight");
  name("output_scale", "layer_output_scale.weight");
}

NameTable names() {
  NameTable table = hugging_face_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  const auto name = [&](const std::string& ours, const std::string& theirs) {
    table.names[path + ours] = {{layer + theirs}};
  };
  name("mixer_post_norm", "post_attention_layernorm.weight");
  name("ffn_norm", "pre_feedforward_layernorm.weight"), name("ffn_post_norm", "post_feedforward_layernorm.weight");
  name("moe.shared_norm", "pre_feedforward_layernorm.weight");
  name("moe.shared_post_norm", "post_feedforward_layernorm_1.weight");
  name("moe.experts_norm", "pre_feedforward_layernorm_2.weight");
  name("moe.experts_post_norm", "post_feedforward_layernorm_2.weight");
  name("moe.router", "router.proj.weight"), name("moe.router.norm", "router.scale");
  name("moe.router.expert_scale", "router.per_expert_scale");
  table.names[path + "moe.experts.gate"] = {{layer + "experts.gate_up_proj", Piece::first_half}};
  table.names[path + "moe.experts.up"] = {{layer + "experts.gate_up_proj", Piece::second_half}};
  name("moe.experts.down", "experts.down_proj");
  for (const std::string part : {"gate", "up", "down"}) name("moe.shared." + part, "mlp." + part + "_proj.weight");
  name("output_scale", "layer_scalar");
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.json.erase("hidden_act"), config.json.erase("rope_theta"), config.json.erase("rope_scaling");
  const layers::MoeSpec* const moe = first_moe(spec);
  config.json["hidden_activation"] =
      activation_name(moe ? moe->activation : std::get<layers::DenseFfnSpec>(spec.blocks.front().ffn).activation);
  config.json["layer_types"] = config.layer_types();
  config.sliding_window();
  config.attention_bias();
  config.json["hidden_size_per_layer_input"] = 0;
  if (spec.logits_softcap) config.json["final_logit_softcapping"] = decimal(*spec.logits_softcap);
  bool keys_are_values = false;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    const bool slides = attention.window > 0;
    keys_are_values |= attention.values_are_keys;
    if (slides) {
      config.json["head_dim"] = attention.head_dim, config.json["num_key_value_heads"] = attention.kv_heads;
    } else {
      config.json["per_layer_config"][std::to_string(i)] = {{"head_dim", attention.head_dim},
                                                            {"num_key_value_heads", attention.kv_heads}};
    }
    base::Json& rope = config.json["rope_parameters"][slides ? kSliding : kFull];
    rope = {{"rope_type", "default"}, {"rope_theta", decimal(attention.rope->theta)}};
    if (attention.rope->turning_dims == 0) continue;
    rope["rope_type"] = "proportional";
    rope["partial_rotary_factor"] =
        static_cast<double>(attention.rope->turning_dims) / static_cast<double>(attention.rope->dims);
  }
  config.json["attention_k_eq_v"] = keys_are_values;
  config.json["enable_moe_block"] = moe != nullptr;
  if (!moe) return;
  config.json["num_experts"] = moe->router.experts, config.json["top_k_experts"] = moe->router.experts_per_token;
  config.json["moe_intermediate_size"] = moe->hidden, config.json["intermediate_size"] = moe->shared_hidden;
}

constexpr Multimodal kMultimodal[] = {{.model_type = "gemma4", .tied = true}};

constexpr Shape kShapes[] = {
    {"gemma4-26b-a4b", R"({"model_type": "gemma4_text", "vocab_size": 262144, "hidden_size": 2816,
      "intermediate_size": 2112, "num_hidden_layers": 30, "num_attention_heads": 16, "num_key_value_heads": 8,
      "head_dim": 256, "global_head_dim": 512, "num_global_key_value_heads": 2, "attention_k_eq_v": true,
      "enable_moe_block": true, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704,
      "hidden_size_per_layer_input": 0, "sliding_window": 1024, "final_logit_softcapping": 30.0,
      "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "tie_word_embeddings": true})"},
};

}  // namespace

const Family kGemma4 = {
    .model_type = "gemma4_text",
    .architecture = "gemma4",
    .class_name = "Gemma4ForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
    .shapes = kShapes,
    .multimodal = kMultimodal,
};

}  // namespace coterie::families
