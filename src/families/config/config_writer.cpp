#include "families/config/config_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "families/family.h"
#include "layers/attention/rope.h"

namespace coterie::families {

using base::Json;
using layers::AttentionSpec;
using layers::DenseFfnSpec;
using layers::MoeSpec;
using layers::RopeSpec;

double decimal(float value) { return std::stod(fmt::format("{}", value)); }

double decimal(double value) {
  const auto narrow = static_cast<float>(value);
  return double{narrow} == value ? decimal(narrow) : value;
}

std::string activation_name(ops::Activation activation) {
  switch (activation) {
    case ops::Activation::silu: return "silu";
    case ops::Activation::gelu: return "gelu";
    case ops::Activation::gelu_tanh: return "gelu_pytorch_tanh";
    case ops::Activation::relu: return "relu";
    case ops::Activation::relu2: return "relu2";
    case ops::Activation::identity: return "linear";
    case ops::Activation::sigmoid: return "sigmoid";
    case ops::Activation::softplus: return "softplus";
  }
  base::fail(base::ErrorKind::internal, "config", "an activation without a name");
}

std::vector<float> llama3_divisors(const RopeSpec& rope) {
  RopeSpec plain = rope;
  plain.scaling = RopeSpec::Scaling::none;
  const std::vector<float> unscaled = layers::rope_table(plain).frequency;
  std::vector<float> divisors = layers::rope_table(rope).frequency;
  for (size_t i = 0; i < divisors.size(); ++i) divisors[i] = unscaled[i] / divisors[i];
  return divisors;
}

std::vector<float> still_divisors(const RopeSpec& rope) {
  std::vector<float> divisors(static_cast<size_t>(rope.dims / 2), 1e30f);
  std::fill_n(divisors.begin(), rope.turning_dims / 2, 1.0f);
  return divisors;
}

const MoeSpec* first_moe(const ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<MoeSpec>(&block.ffn)) return moe;
  return nullptr;
}

namespace {

/// The published factors of llama3 scalings (Llama 3.1: 8, 3.2: 32) are tried: GGUF keeps what they lead to.
std::optional<RopeSpec> llama3_of(const RopeSpec& read) {
  RopeSpec rope = read;
  rope.divisors.clear();
  rope.scaling = RopeSpec::Scaling::llama3;
  rope.low_freq_factor = 1, rope.high_freq_factor = 4;
  for (const int64_t original : {int64_t{8192}, read.original_context})
    for (const double factor : {8.0, 32.0, 16.0, 4.0, 2.0}) {
      rope.factor = factor, rope.original_context = original;
      const std::vector<float> divisors = llama3_divisors(rope);
      bool same = divisors.size() == read.divisors.size();
      for (size_t i = 0; same && i < divisors.size(); ++i)
        same = std::abs(divisors[i] - read.divisors[i]) <= 1e-5f * read.divisors[i];
      if (same) return rope;
    }
  return {};
}

// The reference's own is sqrt(1 + ln factor / ln original).
void put_longrope_magnitude(const RopeSpec& rope, Json& config) {
  const auto original = static_cast<double>(rope.original_context);
  const double factor = config["max_position_embeddings"].get<double>() / original;
  const double own = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
  const auto magnitude = static_cast<double>(rope.long_magnitude);
  if (std::abs(magnitude / own - 1) > 1e-6) config["rope_scaling"]["attention_factor"] = decimal(magnitude);
}

}  // namespace

ConfigWriter::ConfigWriter(const Family& family, const ModelSpec& spec, const ConfigParent* parent)
    : family_(family), spec_(spec), parent_(parent) {
  for (const models::BlockSpec& block : spec.blocks)
    if (!attention_) attention_ = std::get_if<AttentionSpec>(&block.mixer);
}

const AttentionSpec& ConfigWriter::attention() const {
  if (!attention_)
    base::fail(base::ErrorKind::unsupported, "config.json", "the config.json of {} has no keys for this model's mixers",
               family_.model_type);
  return *attention_;
}

int64_t ConfigWriter::window() const {
  int64_t window = 0;
  for (const models::BlockSpec& block : spec_.blocks)
    if (const auto* attention = std::get_if<AttentionSpec>(&block.mixer)) window = std::max(window, attention->window);
  return window;
}

int64_t ConfigWriter::dense_width() const {
  for (const ModelSpec* spec : {&spec_, parent_ ? &parent_->spec : &spec_})
    for (const models::BlockSpec& block : spec->blocks)
      if (const auto* dense = std::get_if<DenseFfnSpec>(&block.ffn)) return dense->hidden;
  const MoeSpec* moe = first_moe(spec_);
  return moe ? moe->hidden : 0;
}

void ConfigWriter::sizes() {
  const layers::LatentAttentionSpec* latent = nullptr;
  const RopeSpec* read = nullptr;  // of the first layer that has positions
  for (const models::BlockSpec& block : spec_.blocks) {
    if (!latent) latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer);
    if (!read) read = rope_of(spec_, block);
  }
  if (parent_ || !latent) attention();  // or refuse
  json.update({{"model_type", family_.model_type},
               {"vocab_size", spec_.vocabulary},
               {"hidden_size", spec_.width},
               {"num_hidden_layers", spec_.blocks.size()},
               {"num_attention_heads", attention_ ? attention_->heads : latent->heads},
               {"num_key_value_heads", attention_ ? attention_->kv_heads : latent->heads},
               {"max_position_embeddings", spec_.context},
               {"tie_word_embeddings", spec_.tied_embeddings}});
  if (attention_) json["head_dim"] = attention_->head_dim;
  const MoeSpec* moe = first_moe(spec_);
  ops::Activation activation = moe ? moe->activation : ops::Activation::silu;
  for (const models::BlockSpec& block : spec_.blocks)
    if (const auto* dense = std::get_if<DenseFfnSpec>(&block.ffn)) activation = dense->activation;
  json["hidden_act"] = activation_name(activation);
  if (parent_) {
    carry({"max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
           "attention_dropout", "use_cache"});
    carry_rope();
  } else if (read) {
    rope(*read);
  }
}

void ConfigWriter::decoder() {
  sizes();
  json["architectures"] = {family_.class_name};
  json["rms_norm_eps"] = decimal(spec_.final_norm.eps);
  json["intermediate_size"] = dense_width();
}

void ConfigWriter::carry(std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (const auto found = parent_->config.find(key); found != parent_->config.end() && !found->is_null())
      json[key] = *found;
}

void ConfigWriter::carry_rope() {
  carry({"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"});
  const Json* object = nullptr;
  for (const char* key : {"rope_parameters", "rope_scaling"})
    if (json.contains(key)) object = &json[key];
  const bool inside = object && object->contains("rope_theta");
  if (attention_->rope && !inside && !json.contains("rope_theta")) json["rope_theta"] = attention_->rope->theta;
  // Where the parent's class has a key of its own for it, others read it with the scaling.
  const auto original = parent_->config.find("original_max_position_embeddings");
  if (original == parent_->config.end()) return;
  for (const char* key : {"rope_parameters", "rope_scaling"})
    if (json.contains(key) && !json[key].contains("original_max_position_embeddings"))
      json[key]["original_max_position_embeddings"] = *original;
}

void ConfigWriter::rope(const RopeSpec& read) {
  const std::optional<RopeSpec> llama3 = read.divisors.empty() ? std::nullopt : llama3_of(read);
  const RopeSpec& rope = llama3 ? *llama3 : read;
  json["rope_theta"] = decimal(rope.theta);
  switch (rope.scaling) {
    case RopeSpec::Scaling::none: return;
    case RopeSpec::Scaling::longrope:
      json["rope_scaling"] = {
          {"type", "longrope"}, {"short_factor", rope.short_factors}, {"long_factor", rope.long_factors}};
      json["original_max_position_embeddings"] = rope.original_context;
      put_longrope_magnitude(rope, json);
      return;
    case RopeSpec::Scaling::linear:
    case RopeSpec::Scaling::dynamic:
      json["rope_scaling"] = {{"rope_type", rope.scaling == RopeSpec::Scaling::linear ? "linear" : "dynamic"},
                              {"factor", decimal(rope.factor)}};
      return;
    case RopeSpec::Scaling::llama3:
      json["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", decimal(rope.factor)},
                              {"low_freq_factor", decimal(rope.low_freq_factor)},
                              {"high_freq_factor", decimal(rope.high_freq_factor)},
                              {"original_max_position_embeddings", rope.original_context}};
      return;
    case RopeSpec::Scaling::yarn:
      json["rope_scaling"] = {{"rope_type", "yarn"},
                              {"factor", decimal(rope.factor)},
                              {"beta_fast", decimal(rope.beta_fast)},
                              {"beta_slow", decimal(rope.beta_slow)},
                              {"original_max_position_embeddings", rope.original_context}};
      const double own = rope.factor <= 1 ? 1 : 0.1 * std::log(rope.factor) + 1;
      const auto magnitude = static_cast<double>(layers::rope_table(rope).magnitude);
      if (std::abs(magnitude / own - 1) > 1e-6) json["rope_scaling"]["attention_factor"] = magnitude;
  }
}

void ConfigWriter::sliding_window() { json["sliding_window"] = window() > 0 ? Json(window()) : Json(nullptr); }

std::vector<std::string> ConfigWriter::layer_types() const {
  std::vector<std::string> types;
  for (const models::BlockSpec& block : spec_.blocks)
    types.push_back(std::get<AttentionSpec>(block.mixer).window > 0 ? "sliding_attention" : "full_attention");
  return types;
}

void ConfigWriter::attention_bias() { json["attention_bias"] = attention().q_bias; }

void ConfigWriter::ffn_bias() { json["mlp_bias"] = std::get<DenseFfnSpec>(spec_.blocks.front().ffn).bias; }

void ConfigWriter::experts(const char* count) {
  const MoeSpec* moe = first_moe(spec_);
  base::require(moe != nullptr, "config", "{} without experts", family_.model_type);
  json[count] = moe->router.experts;
  json["num_experts_per_tok"] = moe->router.experts_per_token;
}

void ConfigWriter::expert_layers() {
  Json types = Json::array();
  for (const models::BlockSpec& block : spec_.blocks)
    types.push_back(std::holds_alternative<MoeSpec>(block.ffn) ? "sparse" : "dense");
  json["mlp_layer_types"] = types;
}

void ConfigWriter::multipliers() {
  json["embedding_multiplier"] = decimal(spec_.embedding_multiplier);
  json["logits_scaling"] = decimal(spec_.logits_scaling);
  json["residual_multiplier"] = decimal(spec_.blocks.front().residual_multiplier);
  json["attention_multiplier"] = decimal(attention().scale);
}

Json write_config(const Family& family, const ModelSpec& spec, const ConfigParent* parent) {
  base::require(family.to_config != nullptr, "config", "no config.json is made for {}", family.model_type);
  ConfigWriter writer(family, spec, parent);
  family.to_config(spec, writer);
  return std::move(writer.json);
}

}  // namespace coterie::families
