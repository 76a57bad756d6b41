#include <algorithm>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"

// Laguna (poolside 2026): heads by layer, rotary embeddings by kind of layer, a softplus gate of attention's output for
// each head or channel, and a sigmoid router whose weights are divided by their sum.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

layers::OutputGate gate_of(ConfigReader& config) {
  layers::OutputGate gate;
  gate.activation = ops::Activation::softplus;
  gate.shape = layers::OutputGate::Shape::per_head;
  const base::Json* said = config.keys.value("gating");
  if (!said || *said == true || *said == "per-head" || *said == "per_head") return gate;
  // The reference takes every other value, false included, for one gate a channel.
  if (*said != "per-element" && *said != "per_element")
    fail(ErrorKind::unsupported, config.keys.where(), "gating is {}: expected true, \"per-head\" or \"per-element\"",
         said->dump());
  gate.shape = layers::OutputGate::Shape::per_channel;
  return gate;
}

void set_attention(ConfigReader& config, ModelSpec& spec) {
  const layers::OutputGate gate = gate_of(config);
  const std::vector<std::string> types = config.keys.strings("layer_types");
  config.set_windows(spec, config.sliding_window(512), [](int64_t) { return false; });
  const std::vector<int64_t> heads = config.keys.integers("num_attention_heads_per_layer");
  if (!heads.empty() && heads.size() != spec.blocks.size())
    fail(ErrorKind::bad_input, config.keys.where(), "num_attention_heads_per_layer has {} entries for {} layers",
         heads.size(), spec.blocks.size());
  const base::Json* by_kind = config.keys.object("rope_parameters");
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto& attention = std::get<layers::AttentionSpec>(spec.blocks[i].mixer);
    if (!heads.empty()) attention.heads = heads[i];
    attention.gate = gate;
    attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
    const bool slides = attention.window > 0;
    const std::string kind = slides ? "sliding_attention" : "full_attention";
    static const base::Json kNone = base::Json::object();
    const base::Json* one = by_kind ? nullptr : &kNone;
    if (by_kind)
      if (const auto found = by_kind->find(kind); found != by_kind->end() && found->is_object()) one = &*found;
    if (!one) fail(ErrorKind::not_found, config.keys.where(), "rope_parameters has no {}, which layer {} is", kind, i);
    const double partial = by_kind ? 1.0 : slides ? 1.0 : 0.5;
    attention.rope = config.rope_of(*one, "rope_parameters: " + kind, attention.head_dim, spec.context,
                                    {.theta = slides || by_kind ? 10000.0 : 500000.0, .partial_rotary = partial});
  }
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 100352,
                                   .width = 2048,
                                   .layers = 40,
                                   .heads = 48,
                                   .kv_heads = 8,
                                   .head_dim = 128,
                                   .hidden = 8192,
                                   .context = 131072,
                                   .rope_by_layer = true});
  config.set_attention_biases(spec);
  set_attention(config, spec);
  layers::MoeSpec moe;
  moe.router.score = layers::RouterSpec::Score::sigmoid;
  moe.router.selection_bias = true;
  moe.router.renormalise = true, moe.router.renormalise_epsilon = 0;
  moe.router.experts = config.experts(256);
  moe.router.experts_per_token = config.experts_per_token(8);
  moe.router.scale = static_cast<float>(config.keys.number("moe_routed_scaling_factor", 1.0));
  moe.hidden = config.keys.integer("moe_intermediate_size", 512);
  moe.shared_hidden = config.keys.integer("shared_expert_intermediate_size", 512);
  if (config.keys.boolean("moe_apply_router_weight_on_input", false))
    fail(ErrorKind::unsupported, config.keys.where(),
         "moe_apply_router_weight_on_input is true: experts whose input is weighted are not supported here");
  // Below zero is none, as in the reference.
  moe.router.softcap = std::max(0.0f, static_cast<float>(config.keys.number("moe_router_logit_softcapping", 0.0)));
  const std::vector<std::string> types = config.keys.strings("mlp_layer_types");
  if (!types.empty() && types.size() != spec.blocks.size())
    fail(ErrorKind::bad_input, config.keys.where(), "mlp_layer_types has {} entries for {} layers", types.size(),
         spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    if (!types.empty() && types[i] != "dense" && types[i] != "sparse")
      fail(ErrorKind::unsupported, config.keys.where(), "mlp_layer_types[{}] is \"{}\": expected dense or sparse", i,
           types[i]);
    if (types.empty() ? i == 0 : types[i] == "dense") continue;
    moe.activation = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).activation;
    spec.blocks[i].ffn = moe;
  }
  spec.router_aux_loss = config.router_aux_loss(0.001);
  config.keys.inert({"gating_types"});
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  const int64_t window = metadata.integer("attention.sliding_window", 0);
  const bool said = metadata.has("attention.sliding_window_pattern");
  metadata.set_windows(spec, window, 0);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto& attention = std::get<layers::AttentionSpec>(spec.blocks[i].mixer);
    if (!said && i % 4 != 0) attention.window = window;
    attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
    attention.gate.activation = ops::Activation::softplus;
    const bool per_head = metadata.rows_of("blk." + std::to_string(i) + ".attn_gate.weight") == attention.heads;
    attention.gate.shape = per_head ? layers::OutputGate::Shape::per_head : layers::OutputGate::Shape::per_channel;
    const double theta = metadata.number("rope.freq_base_swa", attention.rope->theta);
    const int64_t dims = metadata.integer("rope.dimension_count_swa", attention.rope->dims);
    if (attention.window == 0) continue;
    attention.rope->theta = theta, attention.rope->dims = dims;
    attention.rope->scaling = layers::RopeSpec::Scaling::none;
  }
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length"),
                              .shared_hidden = metadata.integer("expert_shared_feed_forward_length"),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = true});
  for (BlockSpec& block : spec.blocks)
    if (auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) moe->router.renormalise_epsilon = 0;
  return spec;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  std::vector<uint64_t> heads;
  uint64_t dense = 0;
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    heads.push_back(static_cast<uint64_t>(attention.heads));
    if (std::holds_alternative<layers::DenseFfnSpec>(block.ffn) && dense + 1 == heads.size()) ++dense;
    if (attention.window == 0) {
      metadata.rope(*attention.rope);
    } else {
      metadata.put("rope.freq_base_swa", attention.rope->theta);
      metadata.put("rope.dimension_count_swa", static_cast<uint64_t>(attention.rope->dims));
    }
  }
  metadata.put("attention.head_count", heads);
  metadata.put("leading_dense_block_count", dense);
  metadata.window_pattern(spec);
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  config.experts("num_experts");
  config.expert_layers();
  config.sliding_window();
  config.json["layer_types"] = config.layer_types();
  base::Json heads = base::Json::array(), kinds = base::Json::object();
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    heads.push_back(attention.heads);
    config.json["gating"] = attention.gate.shape == layers::OutputGate::Shape::per_head ? "per-head" : "per-element";
    config.json.erase("rope_scaling");
    config.rope(*attention.rope);
    base::Json& kind = kinds[attention.window > 0 ? "sliding_attention" : "full_attention"];
    kind = config.json.value("rope_scaling", base::Json{{"rope_type", "default"}});
    kind["rope_theta"] = config.json["rope_theta"];
    kind["partial_rotary_factor"] = static_cast<double>(attention.rope->dims) / static_cast<double>(attention.head_dim);
  }
  for (const char* key : {"rope_scaling", "rope_theta"}) config.json.erase(key);
  config.json["num_attention_heads_per_layer"] = heads, config.json["rope_parameters"] = kinds;
  const layers::MoeSpec& moe = *first_moe(spec);
  config.json["moe_intermediate_size"] = moe.hidden;
  config.json["shared_expert_intermediate_size"] = moe.shared_hidden;
  config.json["moe_routed_scaling_factor"] = decimal(moe.router.scale);
  if (moe.router.softcap > 0) config.json["moe_router_logit_softcapping"] = decimal(moe.router.softcap);
}

NameTable names() {
  NameTable table = hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj");
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  table.names[path + "attention.gate"] = {{layer + "self_attn.g_proj.weight"}};
  table.names[path + "moe.router.selection_bias"] = {{layer + "mlp.experts.e_score_correction_bias"},
                                                     {layer + "mlp.gate.e_score_correction_bias"}};
  for (const std::string part : {"gate", "up", "down"})
    table.names[path + "moe.shared." + part].push_back({layer + "mlp.shared_experts." + part + "_proj.weight"});
  return table;
}

}  // namespace

const Family kLaguna = {
    .model_type = "laguna",
    .architecture = "laguna",
    .class_name = "LagunaForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
};

}  // namespace coterie::families
