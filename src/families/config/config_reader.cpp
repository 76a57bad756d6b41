#include "families/config/config_reader.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace coterie::families {

using base::ErrorKind;
using base::fail;

bool ConfigReader::is_null(std::string_view key) const {
  const auto found = json_.find(std::string(key));
  return found != json_.end() && found->is_null();
}

namespace {

// Positions that a scaling makes room for, which max_position_embeddings often leaves out (vLLM derives them so too).
// llama3's is always in it.
int64_t scaled_context(const layers::RopeSpec& rope) {
  using Scaling = layers::RopeSpec::Scaling;
  if (rope.scaling == Scaling::none || rope.scaling == Scaling::llama3) return 0;
  const double positions = rope.factor * static_cast<double>(rope.original_context);
  return positions > 0 && positions < 0x1p31 ? static_cast<int64_t>(positions) : 0;
}

}  // namespace

ModelSpec ConfigReader::decoder(const ConfigDefaults& defaults) {
  ModelSpec spec;
  spec.family.model_type = keys.string("model_type");
  spec.vocabulary = keys.integer("vocab_size", defaults.vocabulary);
  spec.width = keys.integer("hidden_size", defaults.width);
  spec.context = keys.integer(defaults.context_key, defaults.context);
  spec.tied_embeddings = keys.boolean("tie_word_embeddings", defaults.tied);
  spec.final_norm.eps = static_cast<float>(keys.number(defaults.eps_key, defaults.eps));

  layers::AttentionSpec attention;
  attention.heads = keys.integer("num_attention_heads", defaults.heads);
  if (spec.width < 1) fail(ErrorKind::bad_input, keys.where(), "hidden_size is {}: expected at least 1", spec.width);
  if (attention.heads < 1)
    fail(ErrorKind::bad_input, keys.where(), "num_attention_heads is {}: expected at least 1", attention.heads);
  const std::optional<int64_t> kv_heads = is_null("num_key_value_heads") ? std::nullopt : defaults.kv_heads;
  attention.kv_heads = keys.integer("num_key_value_heads", kv_heads.value_or(attention.heads));
  if (keys.has("head_dim") || (defaults.head_dim && !is_null("head_dim"))) {
    attention.head_dim = keys.integer("head_dim", defaults.head_dim);
  } else {
    if (spec.width % attention.heads != 0)
      fail(ErrorKind::bad_input, keys.where(), "hidden_size {} is not a multiple of num_attention_heads {}", spec.width,
           attention.heads);
    attention.head_dim = spec.width / attention.heads;
    keys.inert({"head_dim"});
  }
  if (attention.head_dim < 1)
    fail(ErrorKind::bad_input, keys.where(), "head_dim is {}: expected at least 1", attention.head_dim);
  attention.value_dim = attention.head_dim;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  if (!defaults.rope_by_layer) {
    attention.rope = rope(attention.head_dim, spec.context,
                          {defaults.theta, defaults.partial_rotary, defaults.original_context, defaults.magnitudes,
                           defaults.image_positions});
    spec.context = std::max(spec.context, scaled_context(*attention.rope));
  }

  BlockSpec block;
  block.mixer_norm = block.ffn_norm = spec.final_norm;
  attention.qk_norm_eps = spec.final_norm.eps;
  block.mixer = attention;
  block.ffn = layers::DenseFfnSpec{keys.integer("intermediate_size", defaults.hidden), activation()};
  const int64_t layer_count = keys.integer("num_hidden_layers", defaults.layers);
  if (layer_count < 1 || layer_count > 65536)
    fail(ErrorKind::bad_input, keys.where(), "num_hidden_layers is {}: expected 1 to 65536", layer_count);
  spec.blocks.assign(static_cast<size_t>(layer_count), block);
  const std::pair<std::string_view, double> sizes[] = {
      {"vocab_size", spec.vocabulary},      {"hidden_size", spec.width},
      {"num_hidden_layers", layer_count},   {"num_attention_heads", attention.heads},
      {defaults.context_key, spec.context}, {defaults.eps_key, defaults.eps}};
  for (const auto& [key, value] : sizes)
    if (!keys.has(key)) note_default(key, fmt::format("{:g}", value));
  if (!keys.has("num_key_value_heads") && attention.kv_heads != attention.heads)
    note_default("num_key_value_heads", std::to_string(attention.kv_heads));
  return spec;
}

void ConfigReader::note_default(std::string_view key, const std::string& value) {
  if (silent_defaults) return;
  warnings.push_back(fmt::format("{}: {} is not given; {} is taken, as the reference does", keys.where(), key, value));
}

ops::Activation ConfigReader::activation(std::string_view key, std::string_view otherwise) {
  // transformers/activations.py. Its several tanh forms of GELU are one formula in different roundings.
  static constexpr std::array<std::pair<std::string_view, ops::Activation>, 12> kKnown = {{
      {"silu", ops::Activation::silu},
      {"swish", ops::Activation::silu},
      {"gelu", ops::Activation::gelu},
      {"gelu_python", ops::Activation::gelu},
      {"gelu_new", ops::Activation::gelu_tanh},
      {"gelu_fast", ops::Activation::gelu_tanh},
      {"gelu_accurate", ops::Activation::gelu_tanh},
      {"gelu_pytorch_tanh", ops::Activation::gelu_tanh},
      {"gelu_python_tanh", ops::Activation::gelu_tanh},
      {"relu", ops::Activation::relu},
      {"relu2", ops::Activation::relu2},
      {"linear", ops::Activation::identity},
  }};
  const std::string name = keys.string(key, std::string(otherwise));
  std::string known;
  for (const auto& [known_name, activation] : kKnown) {
    if (known_name == name) return activation;
    known += (known.empty() ? "" : ", ") + std::string(known_name);
  }
  fail(ErrorKind::unsupported, keys.where(), "activation {} \"{}\" is not supported; supported are {}", key, name,
       known);
}

std::optional<int64_t> ConfigReader::sliding_window(std::optional<int64_t> otherwise) {
  if (is_null("sliding_window")) otherwise.reset();
  if (!keys.has("sliding_window") && !otherwise) {
    keys.inert({"sliding_window"});
    return {};
  }
  const int64_t window = keys.integer("sliding_window", otherwise);
  if (window < 1) fail(ErrorKind::bad_input, keys.where(), "sliding_window is {}: expected at least 1", window);
  return window;
}

void ConfigReader::set_window(ModelSpec& spec, std::optional<int64_t> window) {
  for (BlockSpec& block : spec.blocks) std::get<layers::AttentionSpec>(block.mixer).window = window.value_or(0);
  // Newer files repeat it layer by layer.
  const std::string_view expected = window ? "sliding_attention" : "full_attention";
  for (const std::string& type : keys.strings("layer_types"))
    if (type != expected)
      fail(ErrorKind::unsupported, keys.where(),
           "layer_types says {}, but layers of model_type {} are all {} by its sliding_window", type,
           spec.family.shown(), expected);
}

void ConfigReader::set_windows(ModelSpec& spec, std::optional<int64_t> window,
                               base::FunctionRef<bool(int64_t layer)> slides) {
  const std::vector<std::string> types = keys.strings("layer_types");
  if (!types.empty() && types.size() != spec.blocks.size())
    fail(ErrorKind::bad_input, keys.where(), "layer_types has {} entries for {} layers", types.size(),
         spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    bool sliding = types.empty() && slides(static_cast<int64_t>(i));
    if (!types.empty()) {
      sliding = types[i] == "sliding_attention";
      if (!sliding && types[i] != "full_attention")
        fail(ErrorKind::unsupported, keys.where(),
             "layer_types[{}] is \"{}\": expected full_attention or "
             "sliding_attention",
             i, types[i]);
    }
    if (sliding && !window)
      fail(ErrorKind::bad_input, keys.where(), "layer {} slides, but no sliding_window is in use", i);
    std::get<layers::AttentionSpec>(spec.blocks[i].mixer).window = sliding ? *window : 0;
  }
}

std::vector<bool> ConfigReader::sparse_layers(const ModelSpec& spec, base::FunctionRef<bool(int64_t layer)> sparse) {
  const std::vector<std::string> types = keys.strings("mlp_layer_types");
  if (!types.empty() && types.size() != spec.blocks.size())
    fail(ErrorKind::bad_input, keys.where(), "mlp_layer_types has {} entries for {} layers", types.size(),
         spec.blocks.size());
  std::vector<bool> result;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    result.push_back(types.empty() ? sparse(static_cast<int64_t>(i)) : types[i] == "sparse");
    if (!types.empty() && types[i] != "sparse" && types[i] != "dense")
      fail(ErrorKind::unsupported, keys.where(), "mlp_layer_types[{}] is \"{}\": expected sparse or dense", i,
           types[i]);
  }
  return result;
}

void ConfigReader::expect(std::string_view key, const base::Json& value) {
  const base::Json* const found = keys.value(key);
  if (found && !found->is_null() && *found != value)
    fail(ErrorKind::unsupported, keys.where(), "{} is {}: model_type {} is supported with {} only", key, found->dump(),
         keys.string("model_type"), value.dump());
}

int64_t ConfigReader::integer_of(std::initializer_list<std::string_view> spellings, int64_t otherwise) {
  std::optional<int64_t> value;
  std::string_view first;
  for (const std::string_view key : spellings) {
    if (!keys.has(key)) {
      keys.inert({key});
      continue;
    }
    const int64_t found = keys.integer(key);
    if (value && *value != found)
      fail(ErrorKind::bad_input, keys.where(), "{} is {} but {} is {}: expected the same, or one of them", first,
           *value, key, found);
    if (!value) value = found, first = key;
  }
  return value.value_or(otherwise);
}

int64_t ConfigReader::experts(int64_t otherwise) {
  return integer_of({"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"}, otherwise);
}

int64_t ConfigReader::experts_per_token(int64_t otherwise) {
  return integer_of({"num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts", "moe_k"},
                    otherwise);
}

float ConfigReader::router_aux_loss(double coefficient) {
  coefficient = keys.number("router_aux_loss_coef", coefficient);
  return keys.boolean("output_router_logits", false) ? static_cast<float>(coefficient) : 0.0f;
}

void ConfigReader::set_attention_biases(ModelSpec& spec, bool otherwise) {
  const bool bias = keys.boolean("attention_bias", otherwise);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = attention.o_bias = bias;
  }
}

void ConfigReader::set_ffn_biases(ModelSpec& spec) {
  const bool bias = keys.boolean("mlp_bias", false);
  for (BlockSpec& block : spec.blocks) std::get<layers::DenseFfnSpec>(block.ffn).bias = bias;
}

void turn_into_experts(BlockSpec& block, layers::MoeSpec moe) {
  const auto& dense = std::get<layers::DenseFfnSpec>(block.ffn);
  moe.hidden = dense.hidden, moe.activation = dense.activation;
  block.ffn = moe;
}

}  // namespace coterie::families
