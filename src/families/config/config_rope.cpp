#include <cmath>
#include <string>

#include "base/error.h"
#include "families/config/config_reader.h"

// The rotary embedding of a config.json, in the precedence of transformers 5's RotaryEmbeddingConfigMixin.
namespace coterie::families {

using base::ErrorKind;
using base::fail;
using layers::RopeSpec;

namespace {

RopeSpec::Scaling scaling_by_name(const std::string& name, const std::string& where) {
  if (name == "default") return RopeSpec::Scaling::none;
  if (name == "linear") return RopeSpec::Scaling::linear;
  if (name == "dynamic") return RopeSpec::Scaling::dynamic;
  if (name == "llama3") return RopeSpec::Scaling::llama3;
  if (name == "yarn" || name == "deepseek_yarn") return RopeSpec::Scaling::yarn;
  if (name == "longrope" || name == "su") return RopeSpec::Scaling::longrope;
  fail(ErrorKind::unsupported, where,
       "rope_type \"{}\" is not supported here; supported are default, linear, dynamic, llama3, yarn, longrope", name);
}

std::vector<float> longrope_factors(base::JsonReader& keys, std::string_view key, int64_t dims) {
  const std::vector<double> values = keys.numbers(key);
  if (static_cast<int64_t>(values.size()) != dims / 2)
    fail(ErrorKind::bad_input, keys.where(),
         "{} has {} entries: expected {}, one for each pair of the {} rotary dimensions", key, values.size(), dims / 2,
         dims);
  for (const double value : values)
    if (!(value > 0)) fail(ErrorKind::bad_input, keys.where(), "{} holds {}: expected numbers above 0", key, value);
  return {values.begin(), values.end()};
}

void read_longrope(base::JsonReader& keys, RopeSpec& rope, int64_t context, bool magnitudes) {
  const auto original = static_cast<double>(rope.original_context);
  rope.factor = keys.number("factor", static_cast<double>(context) / original);
  const double recommended = rope.factor <= 1 ? 1.0 : std::sqrt(1 + std::log(rope.factor) / std::log(original));
  rope.short_magnitude = rope.long_magnitude = static_cast<float>(keys.number("attention_factor", recommended));
  if (magnitudes) {
    rope.short_magnitude = static_cast<float>(keys.number("short_mscale"));
    rope.long_magnitude = static_cast<float>(keys.number("long_mscale"));
  }
  rope.short_factors = longrope_factors(keys, "short_factor", rope.dims);
  rope.long_factors = longrope_factors(keys, "long_factor", rope.dims);
}

void read_scaling(base::JsonReader& keys, RopeSpec& rope, int64_t context, bool magnitudes) {
  switch (rope.scaling) {
    case RopeSpec::Scaling::none: keys.inert({"factor", "original_max_position_embeddings"}); break;
    case RopeSpec::Scaling::linear:
    case RopeSpec::Scaling::dynamic:
      rope.factor = keys.number("factor");
      keys.inert({"original_max_position_embeddings"});  // the reference takes max_position_embeddings
      break;
    case RopeSpec::Scaling::llama3:
      rope.factor = keys.number("factor");
      rope.low_freq_factor = keys.number("low_freq_factor");
      rope.high_freq_factor = keys.number("high_freq_factor");
      if (rope.high_freq_factor == rope.low_freq_factor)
        fail(ErrorKind::bad_input, keys.where(), "high_freq_factor equals low_freq_factor ({})", rope.low_freq_factor);
      break;
    case RopeSpec::Scaling::yarn:
      rope.factor = keys.number("factor", static_cast<double>(context) / static_cast<double>(rope.original_context));
      // 0 counts as absent for the betas and the mscales, as in the reference.
      if (const double fast = keys.number("beta_fast", 0.0); fast != 0) rope.beta_fast = fast;
      if (const double slow = keys.number("beta_slow", 0.0); slow != 0) rope.beta_slow = slow;
      if (keys.has("attention_factor")) rope.attention_factor = keys.number("attention_factor");
      if (keys.has("mscale")) rope.mscale = keys.number("mscale");
      if (keys.has("mscale_all_dim")) rope.mscale_all_dim = keys.number("mscale_all_dim");
      rope.truncate = keys.boolean("truncate", true);
      keys.inert({"attention_factor", "mscale", "mscale_all_dim"});
      break;
    case RopeSpec::Scaling::longrope: read_longrope(keys, rope, context, magnitudes); break;
  }
}

// The dimensions that are rotated. Families that honour no partial_rotary_factor ignore it in the reference where the
// rotary type is default and break where it is another: refused unless it says nothing.
int64_t rotary_dims(base::JsonReader& keys, double otherwise, int64_t head_dim, bool honoured) {
  const double partial = keys.number("partial_rotary_factor", otherwise);
  if (!honoured && partial != 1)
    fail(ErrorKind::unsupported, keys.where(), "partial_rotary_factor {} is not supported for this model_type",
         partial);
  if (!(partial > 0 && partial <= 1))
    fail(ErrorKind::bad_input, keys.where(), "partial_rotary_factor is {}: expected a share of the head", partial);
  return static_cast<int64_t>(static_cast<double>(head_dim) * partial);
}

}  // namespace

RopeSpec ConfigReader::rope_of(const base::Json& parameters, const std::string& name, int64_t head_dim, int64_t context,
                               const RopeDefaults& defaults) {
  RopeSpec rope;
  rope.original_context = context;
  for (const auto& [key, value] : parameters.items())
    if (value.is_object())
      fail(ErrorKind::unsupported, keys.where(), "{} by kind of layer (\"{}\") are not supported for this model_type",
           name, key);
  base::JsonReader inner(parameters, keys.where() + ": " + name);
  rope.theta = inner.number("rope_theta", defaults.theta);
  const std::string type = inner.string("type", "default");
  rope.scaling = scaling_by_name(inner.string("rope_type", type), inner.where());
  rope.dims = rotary_dims(inner, defaults.partial_rotary.value_or(1), head_dim, defaults.partial_rotary.has_value());
  if (rope.scaling == RopeSpec::Scaling::llama3 || rope.scaling == RopeSpec::Scaling::yarn ||
      rope.scaling == RopeSpec::Scaling::longrope) {
    const int64_t inside = inner.integer("original_max_position_embeddings", context);
    rope.original_context =
        keys.integer("original_max_position_embeddings", defaults.original_context.value_or(inside));
    if (rope.original_context < 1)
      fail(ErrorKind::bad_input, inner.where(), "original_max_position_embeddings is {}: expected at least 1",
           rope.original_context);
  }
  read_scaling(inner, rope, context, defaults.magnitudes);
  // An odd number d: one dimension more is rotated, and the frequencies are theta^(-2i / d) still.
  if (rope.scaling == RopeSpec::Scaling::none && rope.dims % 2 != 0 && rope.dims < head_dim) {
    rope.theta = std::pow(rope.theta, static_cast<double>(rope.dims + 1) / static_cast<double>(rope.dims));
    ++rope.dims;
  }
  if (defaults.image_positions) inner.inert({"mrope_section", "mrope_interleaved"});
  for (const std::string& key : inner.unread())
    fail(ErrorKind::unsupported, inner.where(), "key \"{}\" is not known for rope_type {}", key, type);
  return rope;
}

RopeSpec ConfigReader::rope_of_kind(std::string_view kind, int64_t head_dim, int64_t context,
                                    const RopeDefaults& defaults) {
  const base::Json* const kinds = keys.object("rope_parameters");
  base::Json parameters = base::Json::object();
  if (kinds)
    for (const auto& [key, value] : kinds->items()) {
      if (!value.is_object())
        fail(ErrorKind::unsupported, keys.where(),
             "rope_parameters has \"{}\": expected an object for each kind of layer, {} among them", key, kind);
      if (key == kind) parameters = value;
    }
  return rope_of(parameters, "rope_parameters of " + std::string(kind), head_dim, context, defaults);
}

RopeSpec ConfigReader::rope(int64_t head_dim, int64_t context, const RopeDefaults& defaults) {
  const bool partial = defaults.partial_rotary.has_value();
  RopeDefaults outer = defaults;  // with what stands beside the object
  outer.theta = keys.number("rope_theta", defaults.theta);
  if (partial) outer.partial_rotary = keys.number("partial_rotary_factor", *defaults.partial_rotary);
  if (defaults.original_context) keys.inert({"original_max_position_embeddings"});
  const base::Json* scaling = keys.object("rope_scaling");
  const base::Json* parameters = keys.object("rope_parameters");
  const base::Json* chosen = scaling && !scaling->empty() ? scaling : parameters;
  const std::string_view name = chosen == scaling ? "rope_scaling" : "rope_parameters";
  if (chosen == scaling && parameters && *scaling != *parameters)
    warnings.push_back(keys.where() + ": rope_scaling is used and rope_parameters is not, as the reference does");
  if (!keys.has("rope_theta") && (!chosen || !chosen->contains("rope_theta")))
    note_default("rope_theta", fmt::format("{:g}", defaults.theta));
  static const base::Json kNone = base::Json::object();
  return rope_of(chosen ? *chosen : kNone, std::string(name), head_dim, context, outer);
}

}  // namespace coterie::families
