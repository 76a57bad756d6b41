#include "families/known/coterie_writer.h"

#include <algorithm>

#include "families/config/router_keys.h"
#include "families/family.h"

// The other direction of coterie.cpp.
namespace coterie::families {

namespace {

using base::Json;
using layers::AttentionSpec;
using layers::MoeSpec;

// Writes the scalings that have a factor; what is lost of others is found by reading it back.
Json rope_parameters(const layers::RopeSpec& rope) {
  using Scaling = layers::RopeSpec::Scaling;
  Json json = {{"rope_theta", rope.theta}, {"rope_type", "default"}};
  if (rope.scaling == Scaling::none) return json;
  json["factor"] = rope.factor;
  json["rope_type"] = rope.scaling == Scaling::linear    ? "linear"
                      : rope.scaling == Scaling::dynamic ? "dynamic"
                      : rope.scaling == Scaling::llama3  ? "llama3"
                                                         : "yarn";
  if (rope.scaling != Scaling::llama3) return json;
  json["low_freq_factor"] = rope.low_freq_factor, json["high_freq_factor"] = rope.high_freq_factor;
  json["original_max_position_embeddings"] = rope.original_context;
  return json;
}

// Windows in some layers only, and then perhaps with rotary positions of their own (Gemma 2 and 3).
void windows(const ModelSpec& spec, ConfigWriter& config) {
  if (config.window() == 0) return;
  config.json["sliding_window"] = config.window();
  const AttentionSpec *full = nullptr, *sliding = nullptr;
  for (const models::BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<AttentionSpec>(block.mixer);
    (attention.window > 0 ? sliding : full) = &attention;
  }
  if (!full || !sliding) return;
  config.json["layer_types"] = config.layer_types();
  if (!full->rope || !sliding->rope) return;
  const Json of_full = rope_parameters(*full->rope), of_sliding = rope_parameters(*sliding->rope);
  if (of_full == of_sliding) return;
  for (const char* key : {"rope_theta", "rope_scaling", "partial_rotary_factor"}) config.json.erase(key);
  config.json["rope_parameters"] = of_full, config.json["sliding_rope"] = of_sliding;
}

void norms(const ModelSpec& spec, Json& json) {
  const models::BlockSpec& block = spec.blocks.front();
  const bool layer = spec.final_norm.kind == layers::NormSpec::Kind::layer;
  json["norm"] = {{"kind", layer ? "layer" : "rms"}, {"eps", decimal(spec.final_norm.eps)}};
  if (layer) json["norm"]["bias"] = spec.final_norm.bias;
  if (spec.final_norm.weight_offset != 0) json["norm"]["offset"] = decimal(spec.final_norm.weight_offset);
  json["norm_place"] = !block.mixer_post_norm ? "before" : block.mixer_norm ? "both" : "after";
}

void attention(const AttentionSpec& attention, Json& json) {
  json["attention_bias"] = attention.q_bias;
  json["attention_output_bias"] = attention.o_bias;
  json["qk_norm"] = attention.qk_norm == AttentionSpec::QkNorm::none       ? "none"
                    : attention.qk_norm == AttentionSpec::QkNorm::per_head ? "per_head"
                                                                           : "full_width";
  if (attention.clip_qkv) json["clip_qkv"] = decimal(*attention.clip_qkv);
  if (attention.softcap > 0) json["attn_logit_softcapping"] = decimal(attention.softcap);
  json["attention_sinks"] = attention.sinks;
  if (!attention.rope) json["positions"] = "none";
}

void experts(const ModelSpec& spec, Json& json) {
  std::vector<std::string> kinds;
  for (const models::BlockSpec& block : spec.blocks)
    kinds.emplace_back(std::holds_alternative<MoeSpec>(block.ffn)             ? "moe"
                       : std::holds_alternative<layers::NoFfnSpec>(block.ffn) ? "none"
                                                                              : "dense");
  const bool alike = std::count(kinds.begin(), kinds.end(), kinds.front()) == std::ssize(kinds);
  json["ffn"] = alike ? Json(kinds.front()) : Json(kinds);
  const MoeSpec* moe = first_moe(spec);
  if (!moe) return;
  json["moe_intermediate_size"] = moe->hidden;
  if (moe->shared_hidden > 0) {
    json["shared_expert_intermediate_size"] = moe->shared_hidden;
    json["shared_expert_gate"] = moe->shared_gate;
  }
  json["router"] = write_router(moe->router);
}

void ffns(const ModelSpec& spec, ConfigWriter& config) {
  config.json["intermediate_size"] = config.dense_width();
  for (const models::BlockSpec& block : spec.blocks) {
    const auto* moe = std::get_if<MoeSpec>(&block.ffn);
    const auto* dense = std::get_if<layers::DenseFfnSpec>(&block.ffn);
    if (!moe && !dense) continue;
    config.json["gated"] = moe ? moe->gated : dense->gated;
    config.json["ffn_bias"] = moe ? moe->bias : dense->bias;
    if (moe) break;
  }
}

}  // namespace

void coterie_to_config(const ModelSpec& spec, ConfigWriter& config) {
  Json& json = config.json;
  if (config.parent() && config.parent()->config.at("model_type") == own_family().model_type) {
    json = config.parent()->config;
    json["tie_word_embeddings"] = spec.tied_embeddings;
    experts(spec, json);
    return;
  }
  config.sizes();
  config.multipliers();
  if (spec.logits_softcap) json["final_logit_softcapping"] = decimal(*spec.logits_softcap);
  json["head_bias"] = spec.head_bias;
  norms(spec, json);
  attention(config.attention(), json);
  windows(spec, config);
  ffns(spec, config);
  experts(spec, json);
}

}  // namespace coterie::families
