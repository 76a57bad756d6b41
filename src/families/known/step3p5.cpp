#include <cmath>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// Step 3.5 Flash and Step 3.7 Flash (StepFun 2026), text: more heads in layers that slide, a sigmoid gate for each
// head, norms of (1 + w), rotary embeddings by kind of layer, sigmoid routing with a bias of selection beside a shared
// expert, and in the last layers FFNs whose halves are clamped.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;
using layers::AttentionSpec;

constexpr const char *kFull = "full_attention", *kSliding = "sliding_attention";

/// A list with an entry for each layer, or for each and those of multi-token prediction after them.
template <typename T>
std::vector<T> for_layers(ConfigReader& config, const char* key, std::vector<T> list, size_t layers, size_t more) {
  if (list.size() == layers + more) list.resize(layers);
  if (!list.empty() && list.size() != layers)
    fail(ErrorKind::bad_input, config.keys.where(), "{} has {} entries for {} layers", key, list.size(), layers);
  return list;
}

/// A number for each layer, null for none.
std::vector<double> limits(ConfigReader& config, const char* key, size_t layers, size_t more) {
  std::vector<double> values;
  const base::Json* const list = config.keys.value(key);
  if (list && !list->is_array()) fail(ErrorKind::bad_input, config.keys.where(), "{} is not a list", key);
  if (list)
    for (const base::Json& item : *list) {
      if (!item.is_null() && !item.is_number())
        fail(ErrorKind::bad_input, config.keys.where(), "{} holds {}: expected numbers", key, item.dump());
      values.push_back(item.is_null() ? 0 : item.get<double>());
    }
  values = for_layers(config, key, std::move(values), layers, more);
  values.resize(layers, 0);
  return values;
}

/// By kind as transformers writes it; or as published, a base and a share of the head for each layer.
layers::RopeSpec rope_of(ConfigReader& config, size_t layer, const char* kind, int64_t head_dim, int64_t context,
                         size_t layers, size_t more) {
  const base::Json* const by_kind = config.keys.object("rope_parameters");
  if (by_kind && by_kind->contains(kind))
    return config.rope_of((*by_kind)[kind], std::string("rope_parameters of ") + kind, head_dim, context,
                          {.partial_rotary = 1.0});
  base::Json parameters = {{"rope_type", "default"}};
  const base::Json* const theta = config.keys.value("rope_theta");
  if (theta && theta->is_array())
    parameters["rope_theta"] =
        for_layers(config, "rope_theta", config.keys.numbers("rope_theta"), layers, more).at(layer);
  else
    parameters["rope_theta"] = config.keys.number("rope_theta", 10000.0);
  const std::vector<double> shares =
      for_layers(config, "partial_rotary_factors", config.keys.numbers("partial_rotary_factors"), layers, more);
  if (!shares.empty()) parameters["partial_rotary_factor"] = shares[layer];
  const base::Json* const scaling = config.keys.object("rope_scaling");
  if (scaling && std::string(kind) == kFull) parameters.update(*scaling);
  return config.rope_of(parameters, std::string("rotary parameters of ") + kind, head_dim, context,
                        {.partial_rotary = 1.0});
}

void set_attention(ConfigReader& config, ModelSpec& spec, size_t more) {
  const size_t layers = spec.blocks.size();
  const std::vector<std::string> types =
      for_layers(config, "layer_types", config.keys.strings("layer_types"), layers, more);
  const std::optional<int64_t> window = config.sliding_window();
  const auto plain = std::get<AttentionSpec>(spec.blocks.front().mixer);
  int64_t sliding_heads = plain.heads, sliding_kv_heads = plain.kv_heads;
  if (const base::Json* other = config.keys.object("attention_other_setting")) {
    base::JsonReader own(*other, config.keys.where() + ": attention_other_setting");
    sliding_heads = own.integer("num_attention_heads", sliding_heads);
    sliding_kv_heads = own.integer("num_attention_groups", own.integer("num_key_value_heads", sliding_kv_heads));
    if (own.integer("head_dim", plain.head_dim) != plain.head_dim || sliding_kv_heads != plain.kv_heads)
      fail(ErrorKind::unsupported, own.where(), "heads of another width, or other key-value heads, are not supported");
    own.inert({"attention_type", "true_head_dim"});
  }
  sliding_heads = config.keys.integer("num_sliding_attention_heads", sliding_heads);
  const base::Json* const by_layer = config.keys.object("per_layer_config");
  const double scalar = config.keys.number("query_pre_attn_scalar", static_cast<double>(plain.head_dim));
  if (!(scalar > 0)) fail(ErrorKind::bad_input, config.keys.where(), "query_pre_attn_scalar is {}", scalar);
  const bool bias = config.keys.boolean("attention_bias", false);
  config.expect("gating", true), config.expect("use_head_wise_attn_gate", true);
  for (size_t i = 0; i < layers; ++i) {
    const std::string type = types.empty() ? kFull : types[i];
    if (type != kFull && type != kSliding)
      fail(ErrorKind::unsupported, config.keys.where(),
           "layer_types[{}] is \"{}\": expected full_attention or sliding_attention", i, type);
    const bool slides = type == kSliding;
    if (slides && !window)
      fail(ErrorKind::bad_input, config.keys.where(), "layer {} slides, but no sliding_window is in use", i);
    auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    attention.window = slides ? *window : 0;
    if (slides) attention.heads = sliding_heads;
    if (by_layer)
      if (const auto own = by_layer->find(std::to_string(i)); own != by_layer->end()) {
        base::JsonReader keys(*own, config.keys.where() + ": per_layer_config of layer " + std::to_string(i));
        attention.heads = keys.integer("num_attention_heads", attention.heads);
        for (const std::string& key : keys.unread())
          fail(ErrorKind::unsupported, keys.where(), "key \"{}\" is not supported by layer", key);
      }
    attention.scale = static_cast<float>(1 / std::sqrt(scalar));
    attention.q_bias = attention.k_bias = attention.v_bias = attention.o_bias = bias;
    attention.qk_norm = AttentionSpec::QkNorm::per_head, attention.qk_norm_offset = 1;
    attention.gate.shape = layers::OutputGate::Shape::per_head;
    attention.rope = rope_of(config, i, type.c_str(), attention.head_dim, spec.context, layers, more);
  }
}

std::vector<bool> sparse_layers(ConfigReader& config, size_t layers, size_t more) {
  const std::vector<std::string> types =
      for_layers(config, "mlp_layer_types", config.keys.strings("mlp_layer_types"), layers, more);
  std::vector<bool> sparse(layers, false);
  const base::Json* const listed = config.keys.value("moe_layers_enum");  // numbers, or one string of them
  for (size_t i = 0; i < layers; ++i) sparse[i] = types.empty() ? !listed && i >= 3 : types[i] == "sparse";
  if (!types.empty() || !listed) return sparse;
  std::string text = listed->is_string() ? listed->get<std::string>() : listed->dump();
  for (char& c : text)
    if (c < '0' || c > '9') c = ' ';
  for (const char* at = text.c_str(); *at != '\0';) {
    char* end = nullptr;
    const unsigned long long layer = std::strtoull(at, &end, 10);
    if (end == at) break;
    if (layer < layers) sparse[layer] = true;
    at = end;
  }
  return sparse;
}

void set_ffns(ConfigReader& config, ModelSpec& spec, size_t more) {
  const size_t layers = spec.blocks.size();
  layers::MoeSpec moe;
  moe.router.score = layers::RouterSpec::Score::sigmoid, moe.router.selection_bias = true;
  moe.router.renormalise = true, moe.router.renormalise_epsilon = 0;
  moe.router.experts = config.integer_of({"n_routed_experts", "num_local_experts", "moe_num_experts"}, 288);
  moe.router.experts_per_token = config.integer_of({"num_experts_per_tok", "moe_top_k"}, 8);
  moe.router.scale = static_cast<float>(config.keys.number("moe_router_scaling_factor", 1.0));
  config.expect("moe_router_activation", "sigmoid"), config.expect("use_moe_router_bias", true);
  config.expect("norm_expert_weight", true);
  moe.hidden = config.keys.integer("moe_intermediate_size", 1280);
  moe.shared_hidden = config.integer_of({"share_expert_dim", "share_expert_dims"}, 1280);
  if (config.keys.boolean("mlp_bias", false))
    fail(ErrorKind::unsupported, config.keys.where(), "mlp_bias is true: FFNs of this model_type have no biases");
  const std::vector<bool> sparse = sparse_layers(config, layers, more);
  const std::vector<double> routed = limits(config, "swiglu_limits", layers, more);
  const std::vector<double> shared = limits(config, "swiglu_limits_shared", layers, more);
  for (size_t i = 0; i < layers; ++i) {
    auto& dense = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn);
    dense.activation = ops::Activation::silu, dense.clamp = static_cast<float>(shared[i]);
    if (!sparse[i]) continue;
    moe.clamp = static_cast<float>(routed[i]), moe.shared_clamp = static_cast<float>(shared[i]);
    spec.blocks[i].ffn = moe;
  }
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 128815,
                                   .width = 4096,
                                   .layers = 45,
                                   .heads = 64,
                                   .kv_heads = config.keys.integer("num_attention_groups", 8),
                                   .head_dim = 128,
                                   .hidden = 11264,
                                   .context = 128000,
                                   .eps = 1e-5,
                                   .rope_by_layer = true});
  deepseek::set_prediction_layers(config, spec, 0);
  const auto more = static_cast<size_t>(spec.prediction_layers);
  spec.final_norm.weight_offset = 1;
  for (BlockSpec& block : spec.blocks) block.mixer_norm = block.ffn_norm = spec.final_norm;
  set_attention(config, spec, more);
  set_ffns(config, spec, more);
  config.keys.inert({"mtp_layer_types", "mtp_mlp_layer_types", "max_seq_len", "need_fp32_gate", "zero_centered",
                     "use_qk_norm", "att_impl_type", "use_mfa", "yarn_only_types", "use_rope_layers", "sink"});
  return spec;
}

/// The norms hold 1 + w in GGUF. Full layers rotate half of what dimension_count says (llama.cpp's step35).
ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  metadata.set_windows(spec, metadata.integer("attention.sliding_window", 0), 0);
  const double theta = metadata.number("rope.freq_base_swa", 10000.0);
  const size_t layers = spec.blocks.size();
  const auto clamps = [&](const char* key) { return metadata.numbers(key, layers); };
  const std::vector<double> routed = clamps("swiglu_clamp_exp"), shared = clamps("swiglu_clamp_shexp");
  metadata.integer("leading_dense_block_count", 0), metadata.integer("moe_every_n_layers", 1);
  metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length"),
                              .shared_hidden = metadata.integer("expert_shared_feed_forward_length", 0),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = deepseek::has_selection_bias(metadata, spec)});
  for (size_t i = 0; i < layers; ++i) {
    auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    attention.qk_norm = AttentionSpec::QkNorm::per_head;
    attention.gate.shape = layers::OutputGate::Shape::per_head;
    if (attention.window > 0)
      attention.rope->theta = theta, attention.rope->dims = attention.head_dim, attention.rope->divisors.clear();
    else
      attention.rope->dims /= 2;
    if (!attention.rope->divisors.empty())
      attention.rope->divisors.resize(static_cast<size_t>(attention.rope->dims / 2));
    if (auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[i].ffn)) {
      moe->router.renormalise_epsilon = 0;
      moe->clamp = static_cast<float>(routed[i]), moe->shared_clamp = static_cast<float>(shared[i]);
    } else {
      std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).clamp = static_cast<float>(shared[i]);
    }
  }
  deepseek::drop_prediction_layers(metadata, spec);
  return spec;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  std::vector<uint64_t> heads, kv_heads;
  std::vector<double> routed, shared;
  uint64_t dense = 0;
  for (const BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<AttentionSpec>(block.mixer);
    heads.push_back(static_cast<uint64_t>(attention.heads));
    kv_heads.push_back(static_cast<uint64_t>(attention.kv_heads));
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    if (!moe && dense + 1 == heads.size()) ++dense;
    routed.push_back(moe ? static_cast<double>(moe->clamp) : 0);
    shared.push_back(static_cast<double>(moe ? moe->shared_clamp : std::get<layers::DenseFfnSpec>(block.ffn).clamp));
    if (attention.window > 0) {
      metadata.put("rope.freq_base_swa", attention.rope->theta);
    } else {
      metadata.rope(*attention.rope);
      metadata.put("rope.dimension_count", static_cast<uint64_t>(2 * attention.rope->dims));
    }
  }
  metadata.put("attention.head_count", heads), metadata.put("attention.head_count_kv", kv_heads);
  metadata.put("leading_dense_block_count", dense);
  metadata.put("swiglu_clamp_exp", routed), metadata.put("swiglu_clamp_shexp", shared);
  metadata.window_pattern(spec);
}

NameTable names() {
  NameTable table = hugging_face_moe_names("moe", "gate_proj", "up_proj", "down_proj");
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  // As published, and as transformers holds them.
  table.names[path + "attention.gate"] = {{layer + "self_attn.g_proj.weight"}};
  table.names[path + "moe.router"] = {{layer + "moe.gate.weight"}, {layer + "mlp.gate.weight"}};
  table.names[path + "moe.router.selection_bias"] = {{layer + "moe.router_bias"},
                                                     {layer + "mlp.gate.e_score_correction_bias"}};
  for (const std::string part : {"gate", "up", "down"}) {
    table.names[path + "moe.experts." + part].insert(table.names[path + "moe.experts." + part].begin(),
                                                     {layer + "moe." + part + "_proj.weight"});
    table.names[path + "moe.shared." + part] = {{layer + "share_expert." + part + "_proj.weight"},
                                                {layer + "mlp.shared_experts." + part + "_proj.weight"}};
  }
  return table;
}

NameTable names_beside_images() {
  NameTable table = names();
  table.inert.push_back("vit_large_projector.*");
  return table;
}

constexpr Multimodal kMultimodal[] = {{.model_type = "step3p7"}};

}  // namespace

const Family kStep3p5 = {
    .model_type = "step3p5",
    .architecture = "step35",
    .class_name = "Step3p5ForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names_beside_images,
    .to_gguf = to_gguf,
    .multimodal = kMultimodal,
};

}  // namespace coterie::families
