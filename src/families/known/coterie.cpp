#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "families/config/router_keys.h"
#include "families/known/coterie_writer.h"
#include "families/known/families.h"
#include "families/known/ssm.h"

// The engine's own model_type: one config.json that can say every block the engine trains, for models that no published
// model_type fits (makeMoE's; routers with noise or a capacity). Tensors have their canonical paths for names. In GGUF
// the architecture is "coterie", and `coterie.config` holds the config as it is.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

enum class Mixer { attention, mamba, mamba2 };
enum class Ffn { dense, moe, none };
enum class Positions { rope, learned, none };
enum class NormPlace { before, after, both };

template <typename T>
using Words = std::initializer_list<std::pair<std::string_view, T>>;

template <typename T>
T one_of(const std::string& where, std::string_view key, const std::string& word, Words<T> words) {
  std::vector<std::string_view> known;
  for (const auto& [name, value] : words) {
    if (name == word) return value;
    known.push_back(name);
  }
  fail(ErrorKind::unsupported, where, "{} is \"{}\": expected one of {}", key, word, fmt::join(known, ", "));
}

// norm: "rms" or "layer", or an object with kind, eps, bias, offset.
layers::NormSpec norm_of(ConfigReader& config) {
  using Kind = layers::NormSpec::Kind;
  const base::Json* value = config.keys.value("norm");
  const base::Json object =
      !value || value->is_object() ? (value ? *value : base::Json::object()) : base::Json{{"kind", *value}};
  base::JsonReader keys(object, config.keys.where() + ": norm");
  layers::NormSpec norm;
  norm.kind =
      one_of<Kind>(keys.where(), "kind", keys.string("kind", "rms"), {{"rms", Kind::rms}, {"layer", Kind::layer}});
  const bool layer = norm.kind == Kind::layer;
  norm.eps = static_cast<float>(keys.number("eps", layer ? 1e-5 : 1e-6));
  norm.bias = keys.boolean("bias", layer);
  if (norm.bias && !layer) fail(ErrorKind::unsupported, keys.where(), "bias is true, which only kind layer has");
  // What is added to the weights of this and of q/k norms (Gemma's 1 + w).
  norm.weight_offset = static_cast<float>(keys.number("offset", 0));
  if (norm.weight_offset != 0 && layer)
    fail(ErrorKind::unsupported, keys.where(), "offset is {}, which only kind rms has", norm.weight_offset);
  keys.refuse_unread();
  return norm;
}

layers::AttentionSpec attention_of(ConfigReader& config, const ModelSpec& spec) {
  using QkNorm = layers::AttentionSpec::QkNorm;
  layers::AttentionSpec attention;
  attention.heads = config.keys.integer("num_attention_heads");
  attention.kv_heads = config.keys.integer("num_key_value_heads", attention.heads);
  if (attention.heads < 1)
    fail(ErrorKind::bad_input, config.keys.where(), "num_attention_heads is {}", attention.heads);
  if (!config.keys.has("head_dim") && spec.width % attention.heads != 0)
    fail(ErrorKind::bad_input, config.keys.where(), "hidden_size {} is not a multiple of num_attention_heads {}",
         spec.width, attention.heads);
  attention.head_dim = config.keys.integer("head_dim", spec.width / attention.heads);
  if (attention.head_dim < 1) fail(ErrorKind::bad_input, config.keys.where(), "head_dim is {}", attention.head_dim);
  attention.value_dim = attention.head_dim;
  attention.scale = static_cast<float>(
      config.keys.number("attention_multiplier", 1 / std::sqrt(static_cast<double>(attention.head_dim))));
  attention.q_bias = attention.k_bias = attention.v_bias = config.keys.boolean("attention_bias", false);
  attention.o_bias = config.keys.boolean("attention_output_bias", attention.q_bias);
  attention.qk_norm =
      one_of<QkNorm>(config.keys.where(), "qk_norm", config.keys.string("qk_norm", "none"),
                     {{"none", QkNorm::none}, {"per_head", QkNorm::per_head}, {"full_width", QkNorm::full_width}});
  attention.qk_norm_eps = spec.final_norm.eps, attention.qk_norm_offset = spec.final_norm.weight_offset;
  if (config.keys.has("clip_qkv")) attention.clip_qkv = static_cast<float>(config.keys.number("clip_qkv"));
  attention.softcap = static_cast<float>(config.keys.number("attn_logit_softcapping", 0));
  attention.sinks = config.keys.boolean("attention_sinks", false);
  attention.window = config.sliding_window().value_or(0);
  return attention;
}

constexpr ssm::MambaKeys kMambaKeys = {.states = "mamba_d_state",
                                       .conv_width = "mamba_d_conv",
                                       .expand = "mamba_expand",
                                       .conv_bias = "mamba_conv_bias",
                                       .projection_bias = "mamba_proj_bias",
                                       .activation = "mamba_act",
                                       .rank = "mamba_dt_rank"};

layers::Mamba2Spec mamba2_of(ConfigReader& config, const ModelSpec& spec) {
  ssm::MambaKeys keys = kMambaKeys;
  keys.default_states = 128;
  layers::Mamba2Spec mamba = ssm::mamba2(config, keys);
  const int64_t inner = ssm::inner_width(config, keys, spec.width);
  mamba.heads = config.keys.integer("mamba_n_heads");
  mamba.groups = config.keys.integer("mamba_n_groups", 1);
  mamba.norm_eps = spec.final_norm.eps;
  if (mamba.heads < 1 || inner % mamba.heads != 0)
    fail(ErrorKind::bad_input, config.keys.where(), "an inner width of {} in mamba_n_heads {}", inner, mamba.heads);
  mamba.head_dim = inner / mamba.heads;
  return mamba;
}

// What of each layer: one word for all, or a list that is repeated.
std::vector<std::string> by_layer(ConfigReader& config, std::string_view key, const std::string& otherwise,
                                  size_t layers) {
  const base::Json* value = config.keys.value(key);
  std::vector<std::string> period;
  if (value && value->is_array())
    period = config.keys.strings(key);
  else
    period = {config.keys.string(key, otherwise)};
  if (period.empty() || layers % period.size() != 0)
    fail(ErrorKind::bad_input, config.keys.where(), "{} lists {} layers: {} layers are not a multiple of that", key,
         period.size(), layers);
  std::vector<std::string> all;
  for (size_t i = 0; i < layers; ++i) all.push_back(period[i % period.size()]);
  return all;
}

bool has(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// By layer_types; all that have attention where there are none.
std::vector<bool> sliding_layers(ConfigReader& config, const std::optional<layers::AttentionSpec>& attention,
                                 size_t layers) {
  const bool window = attention && attention->window > 0;
  const std::vector<std::string> types = config.keys.strings("layer_types");
  if (types.empty()) return std::vector<bool>(layers, window);
  if (types.size() != layers)
    fail(ErrorKind::bad_input, config.keys.where(), "layer_types has {} entries for {} layers", types.size(), layers);
  std::vector<bool> slides;
  for (const std::string& type : types) {
    slides.push_back(one_of<bool>(config.keys.where(), "layer_types", type,
                                  {{"sliding_attention", true}, {"full_attention", false}}));
    if (slides.back() && !window)
      fail(ErrorKind::bad_input, config.keys.where(),
           "layer_types has a layer that slides, but there is no sliding_window");
  }
  return slides;
}

void read_mixers(ConfigReader& config, ModelSpec& spec) {
  const std::vector<std::string> kinds = by_layer(config, "mixer", "attention", spec.blocks.size());
  std::optional<layers::AttentionSpec> attention;
  if (has(kinds, "attention")) attention = attention_of(config, spec);
  const std::string word = config.keys.string("positions", attention ? "rope" : "none");
  const auto positions =
      one_of<Positions>(config.keys.where(), "positions", word,
                        {{"rope", Positions::rope}, {"learned", Positions::learned}, {"none", Positions::none}});
  if (positions == Positions::rope) {
    if (!attention)
      fail(ErrorKind::bad_input, config.keys.where(), "positions is \"rope\", but no layer has attention");
    attention->rope = config.rope(attention->head_dim, spec.context, {.partial_rotary = 1.0});
  }
  if (positions == Positions::learned) spec.learned_positions = spec.context;
  const std::vector<bool> slides = sliding_layers(config, attention, spec.blocks.size());
  std::optional<layers::RopeSpec> sliding_rope;
  if (const base::Json* parameters = config.keys.object("sliding_rope")) {
    if (!attention || !attention->rope || attention->window == 0)
      fail(ErrorKind::bad_input, config.keys.where(), "sliding_rope means nothing without sliding_window and rope");
    sliding_rope =
        config.rope_of(*parameters, "sliding_rope", attention->head_dim, spec.context, {.partial_rotary = 1.0});
  }

  std::optional<layers::MambaSpec> mamba;
  if (has(kinds, "mamba")) mamba = ssm::mamba(config, kMambaKeys, spec.width);
  std::optional<layers::Mamba2Spec> mamba2;
  if (has(kinds, "mamba2")) mamba2 = mamba2_of(config, spec);
  for (size_t i = 0; i < kinds.size(); ++i)
    switch (one_of<Mixer>(config.keys.where(), fmt::format("mixer of layer {}", i), kinds[i],
                          {{"attention", Mixer::attention}, {"mamba", Mixer::mamba}, {"mamba2", Mixer::mamba2}})) {
      case Mixer::attention: {
        layers::AttentionSpec one = *attention;
        if (!slides[i]) one.window = 0;
        if (slides[i] && sliding_rope) one.rope = sliding_rope;
        spec.blocks[i].mixer = one;
        break;
      }
      case Mixer::mamba: spec.blocks[i].mixer = *mamba; break;
      case Mixer::mamba2: spec.blocks[i].mixer = *mamba2; break;
    }
}

layers::MoeSpec moe_of(ConfigReader& config, const layers::DenseFfnSpec& dense) {
  layers::MoeSpec moe;
  moe.hidden =
      config.keys.integer("moe_intermediate_size", dense.hidden > 0 ? std::optional(dense.hidden) : std::nullopt);
  moe.activation = dense.activation, moe.gated = dense.gated, moe.bias = dense.bias;
  moe.shared_hidden = config.keys.integer("shared_expert_intermediate_size", 0);
  if (moe.shared_hidden > 0) moe.shared_gate = config.keys.boolean("shared_expert_gate", false);
  const base::Json* router = config.keys.object("router");
  if (!router)
    fail(ErrorKind::not_found, config.keys.where(),
         "\"router\" is missing: an object that describes the experts' router");
  moe.router = read_router(*router, config.keys.where() + ": router");
  return moe;
}

void read_ffns(ConfigReader& config, ModelSpec& spec) {
  const std::vector<std::string> kinds = by_layer(config, "ffn", "dense", spec.blocks.size());
  const bool dense = has(kinds, "dense"), sparse = has(kinds, "moe");
  layers::DenseFfnSpec ffn;
  if (dense || sparse) {
    ffn.hidden = config.keys.integer("intermediate_size", dense ? std::nullopt : std::optional<int64_t>(0));
    ffn.activation = config.activation();
    ffn.gated = config.keys.boolean("gated", true);
    ffn.bias = config.keys.boolean("ffn_bias", false);
  }
  std::optional<layers::MoeSpec> moe;
  if (sparse) moe = moe_of(config, ffn);
  for (size_t i = 0; i < kinds.size(); ++i)
    switch (one_of<Ffn>(config.keys.where(), fmt::format("ffn of layer {}", i), kinds[i],
                        {{"dense", Ffn::dense}, {"moe", Ffn::moe}, {"none", Ffn::none}})) {
      case Ffn::dense: spec.blocks[i].ffn = ffn; break;
      case Ffn::moe: spec.blocks[i].ffn = *moe; break;
      case Ffn::none: spec.blocks[i].ffn = layers::NoFfnSpec{}; break;
    }
}

void read_norms(ConfigReader& config, ModelSpec& spec) {
  const auto place =
      one_of<NormPlace>(config.keys.where(), "norm_place", config.keys.string("norm_place", "before"),
                        {{"before", NormPlace::before}, {"after", NormPlace::after}, {"both", NormPlace::both}});
  for (BlockSpec& block : spec.blocks) {
    const bool ffn = !std::holds_alternative<layers::NoFfnSpec>(block.ffn);
    if (place != NormPlace::after) block.mixer_norm = spec.final_norm;
    if (place != NormPlace::after && ffn) block.ffn_norm = spec.final_norm;
    if (place != NormPlace::before) block.mixer_post_norm = spec.final_norm;
    if (place != NormPlace::before && ffn) block.ffn_post_norm = spec.final_norm;
  }
}

ModelSpec coterie_from_config(ConfigReader& config) {
  config.silent_defaults = true;  // docs/guides/own-config.md says them
  ModelSpec spec;
  spec.family.model_type = config.keys.string("model_type");
  spec.vocabulary = config.keys.integer("vocab_size");
  spec.width = config.keys.integer("hidden_size");
  spec.context = config.keys.integer("max_position_embeddings");
  if (spec.width < 1) fail(ErrorKind::bad_input, config.keys.where(), "hidden_size is {}", spec.width);
  if (spec.context < 1) fail(ErrorKind::bad_input, config.keys.where(), "max_position_embeddings is {}", spec.context);
  spec.tied_embeddings = config.keys.boolean("tie_word_embeddings", false);
  spec.head_bias = config.keys.boolean("head_bias", false);
  spec.embedding_multiplier = static_cast<float>(config.keys.number("embedding_multiplier", 1));
  spec.logits_scaling = static_cast<float>(config.keys.number("logits_scaling", 1));
  if (config.keys.has("final_logit_softcapping"))
    spec.logits_softcap = static_cast<float>(config.keys.number("final_logit_softcapping"));
  spec.final_norm = norm_of(config);
  const int64_t layers = config.keys.integer("num_hidden_layers");
  if (layers < 1 || layers > 65536)
    fail(ErrorKind::bad_input, config.keys.where(), "num_hidden_layers is {}: expected 1 to 65536", layers);
  BlockSpec block;
  block.residual_multiplier = static_cast<float>(config.keys.number("residual_multiplier", 1));
  spec.blocks.assign(static_cast<size_t>(layers), block);
  read_mixers(config, spec);
  read_ffns(config, spec);
  read_norms(config, spec);
  return spec;
}

ModelSpec coterie_from_gguf(MetadataReader& metadata) {
  const std::string config = metadata.string("config", "");
  if (config.empty()) fail(ErrorKind::not_found, "coterie.config", "is missing: the model's config.json, as text");
  return read_config(base::parse_json(config, "coterie.config"), "coterie.config", true);
}

NameTable coterie_names() {
  NameTable table;
  const auto add = [&](const std::string& path) { table.names[path] = {{path}}; };
  for (const std::string path : {"embedding", "embedding.positions", "final_norm", "head"})
    add(path), add(path + ".bias");
  const auto in_blocks = [&](const std::string& part, std::initializer_list<const char*> names) {
    for (const std::string name : names)
      for (const char* suffix : {"", ".bias"}) add("blocks.{layer}." + part + name + suffix);
  };
  in_blocks("", {"mixer_norm", "mixer_post_norm", "ffn_norm", "ffn_post_norm"});
  in_blocks("attention.", {"q", "k", "v", "o", "q_norm", "k_norm", "sinks"});
  in_blocks("mamba.", {"in", "gate", "conv", "select", "dt", "a_log", "d", "out"});
  in_blocks("mamba2.", {"in", "conv", "dt", "norm", "a_log", "d", "out"});
  for (const char* place : {"ffn.", "moe.experts.", "moe.shared."}) in_blocks(place, {"gate", "up", "down"});
  in_blocks("moe.",
            {"router", "router.hidden", "router.noise", "router.scale", "router.selection_bias", "shared_gate"});
  return table;
}

}  // namespace

const Family kCoterie = {
    .model_type = "coterie",
    .architecture = "coterie",
    .from_config = coterie_from_config,
    .from_gguf = coterie_from_gguf,
    .hugging_face_names = coterie_names,
    .to_config = coterie_to_config,
    .as_it_is_in_gguf = true,
};

}  // namespace coterie::families
