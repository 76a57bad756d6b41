#include <string>

#include "base/error.h"
#include "models/families/config_reader.h"

// The rotary embedding of a config.json, in the precedence of transformers 5's RotaryEmbeddingConfigMixin.
namespace coterie::models {

using base::ErrorKind;
using base::fail;
using layers::RopeSpec;

namespace {

RopeSpec::Scaling scaling_by_name(const std::string& name, const std::string& where) {
  if (name == "default") return RopeSpec::Scaling::none;
  if (name == "linear") return RopeSpec::Scaling::linear;
  if (name == "dynamic") return RopeSpec::Scaling::dynamic;
  if (name == "llama3") return RopeSpec::Scaling::llama3;
  if (name == "yarn") return RopeSpec::Scaling::yarn;
  fail(ErrorKind::unsupported, where,
       "rope_type \"{}\" is not supported here; supported are default, linear, dynamic, llama3, yarn", name);
}

void read_scaling(base::JsonReader& keys, RopeSpec& rope, int64_t context) {
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
  }
}

}  // namespace

RopeSpec ConfigReader::rope(int64_t head_dim, int64_t context, double default_theta) {
  RopeSpec rope;
  rope.dims = head_dim;
  rope.original_context = context;
  const double theta = keys.number("rope_theta", default_theta);
  const base::Json* scaling = keys.object("rope_scaling");
  const base::Json* parameters = keys.object("rope_parameters");
  const base::Json* chosen = scaling && !scaling->empty() ? scaling : parameters;
  const std::string_view name = chosen == scaling ? "rope_scaling" : "rope_parameters";
  if (chosen == scaling && parameters && *scaling != *parameters)
    warnings.push_back(keys.where() + ": rope_scaling is used and rope_parameters is not, as the reference does");
  rope.theta = theta;
  if (!chosen || chosen->empty()) return rope;

  for (const auto& [key, value] : chosen->items())
    if (value.is_object())
      fail(ErrorKind::unsupported, keys.where(), "{} by kind of layer (\"{}\") are not supported for this model_type",
           name, key);
  base::JsonReader inner(*chosen, keys.where() + ": " + std::string(name));
  rope.theta = inner.number("rope_theta", theta);
  const std::string type = inner.string("type", "default");
  rope.scaling = scaling_by_name(inner.string("rope_type", type), inner.where());
  const double partial = inner.number("partial_rotary_factor", 1.0);
  if (partial != 1)
    fail(ErrorKind::unsupported, inner.where(), "partial_rotary_factor {} is not supported for this model_type",
         partial);
  if (rope.scaling == RopeSpec::Scaling::llama3 || rope.scaling == RopeSpec::Scaling::yarn) {
    const int64_t inside = inner.integer("original_max_position_embeddings", context);
    rope.original_context = keys.integer("original_max_position_embeddings", inside);
    if (rope.original_context < 1)
      fail(ErrorKind::bad_input, inner.where(), "original_max_position_embeddings is {}", rope.original_context);
  }
  read_scaling(inner, rope, context);
  for (const std::string& key : inner.unread())
    fail(ErrorKind::unsupported, inner.where(), "key \"{}\" is not known for rope_type {}", key, type);
  return rope;
}

}  // namespace coterie::models
