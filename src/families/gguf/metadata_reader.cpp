#include "families/gguf/metadata_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "base/error.h"
#include "quant/codec.h"

namespace coterie::families {

using base::ErrorKind;
using base::fail;

namespace {

// Numbers of any width are one kind; nothing if it is none.
std::optional<double> as_number(const checkpoint::MetaValue& value) {
  return std::visit(
      [](const auto& v) -> std::optional<double> {
        using V = std::remove_cvref_t<decltype(v)>;
        if constexpr (std::is_arithmetic_v<V> && !std::is_same_v<V, bool>)
          return static_cast<double>(v);
        else
          return std::nullopt;
      },
      value);
}

std::optional<int64_t> as_integer(const checkpoint::MetaValue& value) {
  const auto number = as_number(value);
  if (!number || *number != std::floor(*number) || std::abs(*number) >= 0x1p53) return std::nullopt;
  return static_cast<int64_t>(*number);
}

}  // namespace

const checkpoint::MetaValue* MetadataReader::find(std::string_view key) {
  const std::string full = prefix_ + std::string(key);
  read_.insert(full);
  const auto found = source_.metadata().find(full);
  return found == source_.metadata().end() ? nullptr : &found->second;
}

bool MetadataReader::has(std::string_view key) const { return source_.metadata().contains(prefix_ + std::string(key)); }

int64_t MetadataReader::integer(std::string_view key, std::optional<int64_t> otherwise) {
  const checkpoint::MetaValue* value = find(key);
  if (!value) {
    if (otherwise) return *otherwise;
    fail(ErrorKind::not_found, where(key), "this metadata is missing");
  }
  if (const auto integer = as_integer(*value)) return *integer;
  fail(ErrorKind::bad_input, where(key), "expected one integer");
}

double MetadataReader::number(std::string_view key, std::optional<double> otherwise) {
  const checkpoint::MetaValue* value = find(key);
  if (!value) {
    if (otherwise) return *otherwise;
    fail(ErrorKind::not_found, where(key), "this metadata is missing");
  }
  if (const auto number = as_number(*value); number && std::isfinite(*number)) return *number;
  fail(ErrorKind::bad_input, where(key), "expected one finite number");
}

bool MetadataReader::boolean(std::string_view key, bool otherwise) {
  const checkpoint::MetaValue* value = find(key);
  if (!value) return otherwise;
  if (const bool* found = std::get_if<bool>(value)) return *found;
  fail(ErrorKind::bad_input, where(key), "expected true or false");
}

std::string MetadataReader::string(std::string_view key, const std::string& otherwise) {
  const checkpoint::MetaValue* value = find(key);
  if (!value) return otherwise;
  if (const auto* found = std::get_if<std::string>(value)) return *found;
  fail(ErrorKind::bad_input, where(key), "expected a string");
}

std::vector<int64_t> MetadataReader::per_layer(std::string_view key, size_t layers, std::optional<int64_t> otherwise) {
  const checkpoint::MetaValue* value = find(key);
  if (value) {
    std::optional<std::vector<int64_t>> list;
    if (const auto* s = std::get_if<std::vector<int64_t>>(value)) list = *s;
    if (const auto* u = std::get_if<std::vector<uint64_t>>(value)) list.emplace(u->begin(), u->end());
    if (const auto* b = std::get_if<std::vector<bool>>(value)) list.emplace(b->begin(), b->end());
    if (list && list->size() != layers)
      fail(ErrorKind::bad_input, where(key), "{} entries for {} layers", list->size(), layers);
    if (list) return *list;
  }
  return std::vector<int64_t>(layers, integer(key, otherwise));
}

std::vector<bool> MetadataReader::flags(std::string_view key, const std::vector<bool>& otherwise) {
  const checkpoint::MetaValue* value = find(key);
  if (!value) return otherwise;
  const auto* list = std::get_if<std::vector<bool>>(value);
  if (!list || list->size() != otherwise.size())
    fail(ErrorKind::bad_input, where(key), "expected true or false for each of {} layers", otherwise.size());
  return *list;
}

std::vector<double> MetadataReader::numbers(std::string_view key, size_t layers) {
  const checkpoint::MetaValue* value = find(key);
  std::vector<double> list;
  if (const auto* floats = value ? std::get_if<std::vector<double>>(value) : nullptr) list = *floats;
  if (list.empty()) return std::vector<double>(layers, number(key, 0.0));
  if (list.size() != layers) fail(ErrorKind::bad_input, where(key), "{} entries for {} layers", list.size(), layers);
  return list;
}

int64_t MetadataReader::rows_of(const std::string& name) const {
  const checkpoint::TensorInfo* info = source_.find(name);
  return info && info->shape.size() == 2 ? info->shape.front() : 0;
}

void MetadataReader::inert(std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) read_.insert(prefix_ + std::string(key));
}

layers::RopeSpec MetadataReader::rope(ops::RopeTable::Style style, int64_t head_dim, int64_t context) {
  using Scaling = layers::RopeSpec::Scaling;
  layers::RopeSpec rope;
  rope.style = style;
  rope.dims = integer("rope.dimension_count", head_dim);
  rope.theta = number("rope.freq_base", 10000.0);
  rope.original_context = integer("rope.scaling.original_context_length", context);
  rope.factor = number("rope.scaling.factor", 0.0);
  if (const double old = number("rope.scale_linear", 0.0); rope.factor == 0) rope.factor = old;
  const std::string type = string("rope.scaling.type", "linear");
  if (type == "linear")
    rope.scaling = rope.factor == 0 || rope.factor == 1 ? Scaling::none : Scaling::linear;
  else if (type == "yarn")
    rope.scaling = Scaling::yarn;
  else if (type == "longrope")
    rope.scaling = Scaling::longrope;
  else if (type != "none")
    fail(ErrorKind::unsupported, where("rope.scaling.type"),
         "\"{}\" is not supported here; supported are none, linear, yarn, longrope", type);
  if (rope.factor == 0 || rope.scaling == Scaling::none) rope.factor = 1;
  read_longrope(rope);
  const double attention_factor = number("rope.scaling.attn_factor", 1.0);
  const double beta_fast = number("rope.scaling.yarn_beta_fast", 32.0);
  const double beta_slow = number("rope.scaling.yarn_beta_slow", 1.0);
  if (rope.scaling == Scaling::yarn) {
    if (rope.original_context < 1)
      fail(ErrorKind::bad_input, where("rope.scaling.original_context_length"), "is {}", rope.original_context);
    rope.beta_fast = beta_fast, rope.beta_slow = beta_slow;
    // llama.cpp multiplies YaRN's own magnitude by the key.
    rope.attention_factor = attention_factor * (rope.factor <= 1 ? 1 : 0.1 * std::log(rope.factor) + 1);
  } else if (rope.scaling == Scaling::longrope) {
    rope.short_magnitude = rope.long_magnitude = static_cast<float>(attention_factor);
  } else if (attention_factor != 1) {
    fail(ErrorKind::unsupported, where("rope.scaling.attn_factor"), "{} is only supported with yarn", attention_factor);
  }
  boolean("rope.scaling.finetuned", false);  // says how the model was made

  rope.divisors = divisors("rope_freqs.weight", rope.dims);
  return rope;
}

std::vector<float> MetadataReader::divisors(const std::string& name, int64_t dims) const {
  const checkpoint::TensorInfo* info = source_.find(name);
  if (!info) return {};
  if (info->dtype != tensor::DType::f32 || info->shape != tensor::Shape{dims / 2})
    fail(ErrorKind::bad_input, source_.where() + ": " + name, "{} of shape {}: expected f32 of [{}]",
         tensor::name(info->dtype), tensor::to_string(info->shape), dims / 2);
  std::vector<float> values(static_cast<size_t>(dims / 2));
  quant::decode(info->dtype, info->bytes.data(), values.data(), dims / 2);
  for (const float value : values)
    if (!(value > 0) || !std::isfinite(value))
      fail(ErrorKind::bad_input, source_.where() + ": " + name, "holds {}", value);
  return values;
}

// The two sets of divisors are what tells LongRoPE; the type of scaling is often not written.
void MetadataReader::read_longrope(layers::RopeSpec& rope) {
  rope.short_factors = divisors("rope_factors_short.weight", rope.dims);
  rope.long_factors = divisors("rope_factors_long.weight", rope.dims);
  if (rope.short_factors.empty() != rope.long_factors.empty())
    fail(ErrorKind::bad_input, source_.where(),
         "only one of rope_factors_short.weight and rope_factors_long.weight exists: longrope needs both");
  if (rope.short_factors.empty()) {
    if (rope.scaling == layers::RopeSpec::Scaling::longrope)
      fail(ErrorKind::bad_input, where("rope.scaling.type"), "is longrope, but there is no rope_factors_short.weight");
    return;
  }
  if (rope.original_context < 1)
    fail(ErrorKind::bad_input, where("rope.scaling.original_context_length"), "is {}", rope.original_context);
  rope.scaling = layers::RopeSpec::Scaling::longrope;
}

ModelSpec MetadataReader::stack() {
  ModelSpec spec;
  const checkpoint::TensorInfo* embedding = source_.find("token_embd.weight");
  if (!embedding) fail(ErrorKind::not_found, source_.where(), "tensor token_embd.weight is missing");
  if (embedding->shape.size() != 2)
    fail(ErrorKind::bad_input, source_.where() + ": token_embd.weight", "shape {}: expected [vocabulary, width]",
         tensor::to_string(embedding->shape));
  spec.vocabulary = integer("vocab_size", embedding->shape[0]);
  spec.width = integer("embedding_length");
  spec.context = integer("context_length");
  spec.tied_embeddings = !has_tensor("output.weight");
  spec.head_bias = has_tensor("output.bias");
  // The key says whether it is an RMSNorm or a LayerNorm.
  const bool rms = has("attention.layer_norm_rms_epsilon") || !has("attention.layer_norm_epsilon");
  spec.final_norm.eps =
      static_cast<float>(number(rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"));
  const int64_t layer_count = integer("block_count");
  if (layer_count < 1 || layer_count > 65536)
    fail(ErrorKind::bad_input, where("block_count"), "is {}: expected 1 to 65536", layer_count);
  BlockSpec block;
  block.mixer_norm = spec.final_norm;
  spec.blocks.assign(static_cast<size_t>(layer_count), block);
  // Written as 0 where there is neither attention nor FFN.
  read_.insert(prefix_ + "attention.head_count"), read_.insert(prefix_ + "feed_forward_length");
  return spec;
}

ModelSpec MetadataReader::decoder(ops::RopeTable::Style style) {
  ModelSpec spec = stack();
  const size_t layers = spec.blocks.size();
  const std::vector<int64_t> heads = per_layer("attention.head_count", layers);
  if (*std::min_element(heads.begin(), heads.end()) < 1)
    fail(ErrorKind::unsupported, where("attention.head_count"), "a layer without attention heads");
  const std::vector<int64_t> kv_heads = per_layer("attention.head_count_kv", layers, heads[0]);
  const std::vector<int64_t> hidden = per_layer("feed_forward_length", layers, 0);
  const int64_t head_dim = integer("attention.key_length", spec.width / heads[0]);
  const int64_t value_dim = integer("attention.value_length", spec.width / heads[0]);
  if (head_dim < 1) fail(ErrorKind::bad_input, where("attention.key_length"), "is {}: expected at least 1", head_dim);
  const layers::RopeSpec rotary = rope(style, head_dim, spec.context);

  for (size_t i = 0; i < layers; ++i) {
    const std::string layer = fmt::format("blk.{}.", i);
    layers::AttentionSpec attention;
    attention.heads = heads[i], attention.kv_heads = kv_heads[i];
    attention.head_dim = head_dim, attention.value_dim = value_dim;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    attention.rope = rotary;
    attention.qk_norm_eps = spec.final_norm.eps;
    const bool fused = has_tensor(layer + "attn_qkv.bias");
    attention.q_bias = fused || has_tensor(layer + "attn_q.bias");
    attention.k_bias = fused || has_tensor(layer + "attn_k.bias");
    attention.v_bias = fused || has_tensor(layer + "attn_v.bias");
    attention.o_bias = has_tensor(layer + "attn_output.bias");
    layers::DenseFfnSpec ffn{hidden[i]};
    ffn.bias = has_tensor(layer + "ffn_up.bias");
    spec.blocks[i].mixer = attention;
    spec.blocks[i].ffn_norm = spec.final_norm;
    spec.blocks[i].ffn = ffn;
  }
  return spec;
}

void MetadataReader::set_window(ModelSpec& spec) {
  const int64_t window = integer("attention.sliding_window", 0);
  for (BlockSpec& block : spec.blocks) std::get<layers::AttentionSpec>(block.mixer).window = window;
}

void MetadataReader::set_windows(ModelSpec& spec, int64_t window, int64_t pattern) {
  constexpr std::string_view kPattern = "attention.sliding_window_pattern";
  const checkpoint::MetaValue* value = find(kPattern);
  const auto* slides = value ? std::get_if<std::vector<bool>>(value) : nullptr;
  if (slides && slides->size() != spec.blocks.size())
    fail(ErrorKind::bad_input, where(kPattern), "{} entries for {} layers", slides->size(), spec.blocks.size());
  if (value && !slides) pattern = integer(kPattern);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const bool sliding = slides ? (*slides)[i] : pattern > 0 && (static_cast<int64_t>(i) + 1) % pattern != 0;
    std::get<layers::AttentionSpec>(spec.blocks[i].mixer).window = sliding ? window : 0;
  }
}

void MetadataReader::set_experts(ModelSpec& spec, const ExpertDefaults& defaults) {
  layers::MoeSpec moe;
  moe.router.experts = integer("expert_count");
  moe.router.experts_per_token = integer("expert_used_count");
  moe.router.renormalise = boolean("expert_weights_norm", defaults.renormalise);
  const double scale = number("expert_weights_scale", 1.0);
  moe.router.scale = scale == 0 ? 1.0f : static_cast<float>(scale);
  moe.router.score = defaults.score;
  moe.router.selection_bias = defaults.selection_bias;
  switch (const int64_t function = integer("expert_gating_func", 0)) {
    case 0: break;  // not said
    case 1: moe.router.score = layers::RouterSpec::Score::softmax; break;
    case 2: moe.router.score = layers::RouterSpec::Score::sigmoid; break;
    case 3: moe.router.order = layers::RouterSpec::Order::select_then_score; break;
    case 4: moe.router.score = layers::RouterSpec::Score::sqrt_softplus; break;
    default:
      fail(ErrorKind::unsupported, where("expert_gating_func"), "{} is not supported; supported are 1 to 4", function);
  }
  if (defaults.groups) {
    moe.router.groups = std::max<int64_t>(integer("expert_group_count", 1), 1);
    moe.router.groups_kept = integer("expert_group_used_count", 0);
    if (moe.router.groups_kept == 0) moe.router.groups_kept = moe.router.groups;
    // No key says how groups are compared: DeepSeek-V2 has softmax scores and the best, V3 the others.
    if (moe.router.score != layers::RouterSpec::Score::softmax)
      moe.router.group_score = layers::RouterSpec::GroupScore::best_two;
  }
  moe.router.bias = has_tensor("blk.0.ffn_gate_inp.bias");
  moe.bias = has_tensor("blk.0.ffn_up_exps.bias");
  moe.hidden = defaults.hidden;
  moe.shared_hidden = defaults.shared_hidden;
  moe.shared_gate = defaults.shared_gate;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const bool dense = !has_tensor(fmt::format("blk.{}.ffn_gate_inp.weight", i)) &&
                       has_tensor(fmt::format("blk.{}.ffn_gate.weight", i));
    if (dense) continue;
    layers::MoeSpec& own = spec.blocks[i].ffn.emplace<layers::MoeSpec>(moe);
    // Pruned models may have fewer in some layers, which only the shapes say.
    const checkpoint::TensorInfo* router = source_.find(fmt::format("blk.{}.ffn_gate_inp.weight", i));
    if (router && router->shape.size() == 2 && router->shape[0] >= own.router.experts_per_token)
      own.router.experts = std::min(own.router.experts, router->shape[0]);
  }
}

void MetadataReader::refuse_foreign_keys() {
  // Keys that change the result somewhere, and the number that means "without".
  static const std::pair<std::string_view, double> kForeign[] = {
      {"logit_scale", 1},
      {"residual_scale", 1},
      {"embedding_scale", 1},
      {"attention.scale", 0},
      {"attention.output_scale", 1},
      {"attention.value_scale", 1},
      {"attention.indexer.top_k", 0},
      {"swiglu_clamp_exp", 0},
      {"swiglu_clamp_shexp", 0},
      {"attention.shared_kv_layers", 0},
      {"embedding_length_per_layer_input", 0},
      {"attention.max_alibi_bias", 0},
      {"attention.clamp_kqv", 0},
      {"attention.sliding_window", 0},
      {"attention.temperature_scale", 0},
      {"attn_logit_softcapping", 0},
      {"router_logit_softcapping", 0},
      {"final_logit_softcapping", 0},
      {"expert_count", 0},
      {"expert_used_count", 0},
      {"expert_shared_count", 0},
      {"expert_shared_feed_forward_length", 0},
      {"expert_group_count", 0},
      {"expert_group_used_count", 0},
      {"leading_dense_block_count", 0},
      {"moe_every_n_layers", 0},
      {"nextn_predict_layers", 0},
      {"attention.q_lora_rank", 0},
      {"attention.kv_lora_rank", 0},
      {"rope.scaling.alpha", 0},
      {"rope.scaling.yarn_log_multiplier", 0},
      {"rope.scaling.yarn_attn_factor", 1},
      {"rope.scaling.yarn_ext_factor", 1},
  };
  const std::vector<std::string> left = unread();
  const auto is_left = [&](std::string_view key) {
    return std::find(left.begin(), left.end(), prefix_ + std::string(key)) != left.end();
  };
  for (const auto& [key, without] : kForeign) {
    if (!is_left(key)) continue;
    const checkpoint::MetaValue* value = find(key);
    const auto number = as_number(*value);
    // One group of experts means no groups; a shared expert is described by its width.
    const bool one_is_none = key.starts_with("expert_group") || key == "expert_shared_count";
    if (!number || (*number != without && !(one_is_none && *number == 1)))
      fail(ErrorKind::unsupported, where(key), "this metadata is not supported for the architecture{}",
           number ? fmt::format(" (found {})", *number) : "");
  }
  if (!boolean("attention.causal", true))
    fail(ErrorKind::unsupported, where("attention.causal"), "attention to later tokens is not supported");
  if (boolean("use_parallel_residual", false))
    fail(ErrorKind::unsupported, where("use_parallel_residual"), "parallel residuals are not supported");
  for (const std::string_view key : {"rope.dimension_sections", "attention.sliding_window_pattern"})
    if (is_left(key)) fail(ErrorKind::unsupported, where(key), "this metadata is not supported for the architecture");
  // What the file says about itself.
  for (const std::string_view key : {"tensor_data_layout", "expert_feed_forward_length"})
    read_.insert(prefix_ + std::string(key));
}

std::vector<std::string> MetadataReader::unread() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : source_.metadata())
    if (key.starts_with(prefix_) && !read_.contains(key)) keys.push_back(key);
  return keys;
}

}  // namespace coterie::families
