#include "surgery/sibling.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/config/router_keys.h"
#include "families/family.h"
#include "surgery/same_model.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::Json;
using layers::AttentionSpec;
using layers::MoeSpec;
using models::ModelSpec;

constexpr const char* kOwn = "coterie";

/// The shortest decimal that rounds to the float, not the double it widens to.
double decimal(float value) { return std::stod(fmt::format("{}", value)); }

/// Writes config.json of one family. What it cannot say is found by reading it back.
class Writer {
 public:
  Writer(const Json& parent, const ModelSpec& spec, const MoeSpec& moe, const std::vector<bool>& sparse)
      : parent_(parent), spec_(spec), moe_(moe), sparse_(sparse) {
    // The attention of the first layer that has one: where others have another, the comparison says so.
    for (const models::BlockSpec& block : spec.blocks)
      if (const auto* attention = std::get_if<AttentionSpec>(&block.mixer)) {
        attention_ = attention;
        break;
      }
  }

  Json write(const std::string& model_type) {
    if (model_type == kOwn && parent_.at("model_type") == kOwn) return own_of_own();
    if (!attention_) base::fail(ErrorKind::unsupported, "config.json", "{} has no words for its mixers", model_type);
    common(model_type);
    if (model_type == "mixtral") return mixtral();
    if (model_type == "qwen2_moe" || model_type == "qwen3_moe") return qwen(model_type == "qwen2_moe");
    if (model_type == "granitemoe" || model_type == "granitemoeshared") return granite(model_type);
    if (model_type == kOwn) return own();
    throw base::Error(ErrorKind::unsupported, model_type, "is no model_type that mixtures are written as here",
                      "there are mixtral, qwen2_moe, qwen3_moe, granitemoe, granitemoeshared and coterie");
  }

 private:
  void carry(std::initializer_list<const char*> keys) {
    for (const char* key : keys)
      if (const auto found = parent_.find(key); found != parent_.end() && !found->is_null()) json_[key] = *found;
  }

  void common(const std::string& model_type) {
    json_ = {{"model_type", model_type},
             {"vocab_size", spec_.vocabulary},
             {"hidden_size", spec_.width},
             {"num_hidden_layers", spec_.blocks.size()},
             {"num_attention_heads", attention_->heads},
             {"num_key_value_heads", attention_->kv_heads},
             {"head_dim", attention_->head_dim},
             {"max_position_embeddings", spec_.context},
             {"tie_word_embeddings", spec_.tied_embeddings},
             {"hidden_act", families::activation_name(moe_.activation)}};
    carry({"max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
           "attention_dropout", "use_cache"});
    rope();
  }

  void rope() {
    carry({"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"});
    const Json* object = nullptr;
    for (const char* key : {"rope_parameters", "rope_scaling"})
      if (json_.contains(key)) object = &json_[key];
    const bool inside = object && object->contains("rope_theta");
    if (attention_->rope && !inside && !json_.contains("rope_theta")) json_["rope_theta"] = attention_->rope->theta;
    // A key of the family's own class (phi3): others read it with the scaling.
    const auto original = parent_.find("original_max_position_embeddings");
    if (original == parent_.end()) return;
    for (const char* key : {"rope_parameters", "rope_scaling"})
      if (json_.contains(key) && !json_[key].contains("original_max_position_embeddings"))
        json_[key]["original_max_position_embeddings"] = *original;
  }

  void rms_norm() { json_["rms_norm_eps"] = decimal(spec_.final_norm.eps); }

  Json mixtral() {
    rms_norm();
    json_["architectures"] = {"MixtralForCausalLM"};
    json_["intermediate_size"] = moe_.hidden;
    json_["num_local_experts"] = moe_.router.experts;
    json_["num_experts_per_tok"] = moe_.router.experts_per_token;
    json_["sliding_window"] = window() > 0 ? Json(window()) : Json();
    return json_;
  }

  Json qwen(bool second) {
    rms_norm();
    json_["architectures"] = {second ? "Qwen2MoeForCausalLM" : "Qwen3MoeForCausalLM"};
    json_["intermediate_size"] = dense_width();
    json_["moe_intermediate_size"] = moe_.hidden;
    json_["num_experts"] = moe_.router.experts;
    json_["num_experts_per_tok"] = moe_.router.experts_per_token;
    json_["norm_topk_prob"] = moe_.router.renormalise;
    json_["decoder_sparse_step"] = 1;
    json_["mlp_only_layers"] = Json::array();
    for (size_t i = 0; i < sparse_.size(); ++i)
      if (!sparse_[i]) json_["mlp_only_layers"].push_back(i);
    json_["use_sliding_window"] = window() > 0;
    if (window() > 0) json_["sliding_window"] = window();
    if (second) {
      json_["qkv_bias"] = attention_->q_bias;
      json_["shared_expert_intermediate_size"] = moe_.shared_hidden;
      if (window() > 0) {
        json_["max_window_layers"] = spec_.blocks.size();
        json_["layer_types"] = Json::array();
        for (const models::BlockSpec& block : spec_.blocks)
          json_["layer_types"].push_back(std::get<AttentionSpec>(block.mixer).window > 0 ? "sliding_attention"
                                                                                         : "full_attention");
      }
    } else {
      json_["attention_bias"] = attention_->q_bias;
    }
    return json_;
  }

  Json granite(const std::string& model_type) {
    rms_norm();
    const bool shared = model_type == "granitemoeshared";
    json_["architectures"] = {shared ? "GraniteMoeSharedForCausalLM" : "GraniteMoeForCausalLM"};
    json_["intermediate_size"] = moe_.hidden;
    json_["num_local_experts"] = moe_.router.experts;
    json_["num_experts_per_tok"] = moe_.router.experts_per_token;
    if (shared) json_["shared_intermediate_size"] = moe_.shared_hidden;
    json_["attention_bias"] = attention_->q_bias;
    multipliers();
    json_.erase("head_dim");  // these classes derive it
    return json_;
  }

  void multipliers() {
    json_["embedding_multiplier"] = decimal(spec_.embedding_multiplier);
    json_["logits_scaling"] = decimal(spec_.logits_scaling);
    json_["residual_multiplier"] = decimal(spec_.blocks.front().residual_multiplier);
    json_["attention_multiplier"] = decimal(attention_->scale);
  }

  Json own() {
    const models::BlockSpec& block = spec_.blocks.front();
    multipliers();
    if (spec_.logits_softcap) json_["final_logit_softcapping"] = decimal(*spec_.logits_softcap);
    json_["head_bias"] = spec_.head_bias;
    const bool layer = spec_.final_norm.kind == layers::NormSpec::Kind::layer;
    json_["norm"] = {{"kind", layer ? "layer" : "rms"}, {"eps", decimal(spec_.final_norm.eps)}};
    if (layer) json_["norm"]["bias"] = spec_.final_norm.bias;
    if (spec_.final_norm.weight_offset != 0) json_["norm"]["offset"] = decimal(spec_.final_norm.weight_offset);
    json_["norm_place"] = !block.mixer_post_norm ? "before" : block.mixer_norm ? "both" : "after";
    json_["attention_bias"] = attention_->q_bias;
    json_["attention_output_bias"] = attention_->o_bias;
    json_["qk_norm"] = attention_->qk_norm == AttentionSpec::QkNorm::none       ? "none"
                       : attention_->qk_norm == AttentionSpec::QkNorm::per_head ? "per_head"
                                                                                : "full_width";
    if (attention_->clip_qkv) json_["clip_qkv"] = decimal(*attention_->clip_qkv);
    if (attention_->softcap > 0) json_["attn_logit_softcapping"] = decimal(attention_->softcap);
    json_["attention_sinks"] = attention_->sinks;
    windows_of_own();
    if (!attention_->rope) json_["positions"] = "none";
    json_["intermediate_size"] = dense_width();
    json_["gated"] = moe_.gated;
    json_["ffn_bias"] = moe_.bias;
    return experts_of_own();
  }

  // Windows in some layers only, and then perhaps with rotary positions of their own (Gemma 2 and 3).
  void windows_of_own() {
    if (window() == 0) return;
    json_["sliding_window"] = window();
    const AttentionSpec *full = nullptr, *sliding = nullptr;
    base::Json types = base::Json::array();
    for (const models::BlockSpec& block : spec_.blocks) {
      const auto& attention = std::get<AttentionSpec>(block.mixer);
      (attention.window > 0 ? sliding : full) = &attention;
      types.push_back(attention.window > 0 ? "sliding_attention" : "full_attention");
    }
    if (!full || !sliding) return;
    json_["layer_types"] = types;
    if (!full->rope || !sliding->rope) return;
    const Json of_full = rope_parameters(*full->rope), of_sliding = rope_parameters(*sliding->rope);
    if (of_full == of_sliding) return;
    for (const char* key : {"rope_theta", "rope_scaling", "partial_rotary_factor"}) json_.erase(key);
    json_["rope_parameters"] = of_full, json_["sliding_rope"] = of_sliding;
  }

  // Of the scalings that are said by a factor; what is lost of others is found by reading it back.
  static Json rope_parameters(const layers::RopeSpec& rope) {
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

  Json own_of_own() {
    json_ = parent_;
    json_["tie_word_embeddings"] = spec_.tied_embeddings;
    return experts_of_own();
  }

  Json experts_of_own() {
    json_["moe_intermediate_size"] = moe_.hidden;
    if (moe_.shared_hidden > 0) {
      json_["shared_expert_intermediate_size"] = moe_.shared_hidden;
      json_["shared_expert_gate"] = moe_.shared_gate;
    }
    json_["router"] = families::write_router(moe_.router);
    json_["ffn"] = Json::array();
    for (size_t i = 0; i < sparse_.size(); ++i)
      json_["ffn"].push_back(sparse_[i]                                                       ? "moe"
                             : std::holds_alternative<layers::NoFfnSpec>(spec_.blocks[i].ffn) ? "none"
                                                                                              : "dense");
    if (std::find(sparse_.begin(), sparse_.end(), false) == sparse_.end()) json_["ffn"] = "moe";
    return json_;
  }

  int64_t window() const {
    int64_t window = 0;
    for (const models::BlockSpec& block : spec_.blocks)
      if (const auto* attention = std::get_if<AttentionSpec>(&block.mixer))
        window = std::max(window, attention->window);
    return window;
  }

  // Of the layers that stay dense, or the parent's, which is then said to no effect.
  int64_t dense_width() const {
    for (const models::BlockSpec& block : spec_.blocks)
      if (const auto* dense = std::get_if<layers::DenseFfnSpec>(&block.ffn)) return dense->hidden;
    return moe_.hidden;
  }

  const Json& parent_;
  const ModelSpec& spec_;  // with the parent's FFNs
  const MoeSpec& moe_;
  const std::vector<bool>& sparse_;
  const AttentionSpec* attention_ = nullptr;
  Json json_;
};

/// Everything of a router that its family's config must say, the equivalent forms of softmax aside.
Json router_words(const layers::RouterSpec& router) {
  Json json = families::write_router(router);
  if (router.score == layers::RouterSpec::Score::softmax) {
    json["renormalise"] = router.renormalise || router.order == layers::RouterSpec::Order::select_then_score;
    json.erase("order");
  }
  return json;
}

void require_same_router(const layers::RouterSpec& wanted, const layers::RouterSpec& read,
                         const std::string& model_type, const std::string& hint) {
  const Json a = router_words(wanted), b = router_words(read);
  std::set<std::string> keys;
  for (const Json* json : {&a, &b})
    for (const auto& [key, value] : json->items()) keys.insert(key);
  for (const std::string& key : keys)
    if (a.value(key, Json()) != b.value(key, Json()))
      throw base::Error(ErrorKind::unsupported, "--router",
                        fmt::format("the config of {} cannot say {} {}: its routers have {}", model_type, key,
                                    a.value(key, Json()).dump(), b.value(key, Json()).dump()),
                        hint);
}

}  // namespace

std::string published_sibling(const std::string& family, bool shared) {
  if (family == "llama" || family == "mistral") return shared ? "qwen2_moe" : "mixtral";
  if (family == "qwen2") return "qwen2_moe";
  if (family == "qwen3") return "qwen3_moe";
  if (family == "granite") return shared ? "granitemoeshared" : "granitemoe";
  return kOwn;
}

std::string dtype_word(tensor::DType dtype) {
  if (dtype == tensor::DType::f32) return "float32";
  if (dtype == tensor::DType::f16) return "float16";
  if (dtype == tensor::DType::bf16) return "bfloat16";
  base::fail(ErrorKind::unsupported, "--dtype", "weights of {} are not written: expected f32, f16 or bf16",
             tensor::name(dtype));
}

Sibling make_sibling(const ModelSpec& parent, const std::filesystem::path& config_path, const MoeSpec& moe,
                     const std::vector<bool>& sparse, const std::string& model_type) {
  const std::string where = config_path.string();
  Sibling sibling{parent, {}};
  sibling.spec.family = model_type;
  for (size_t i = 0; i < sparse.size(); ++i) {
    const layers::DenseFfnSpec* ffn = std::get_if<layers::DenseFfnSpec>(&parent.blocks[i].ffn);
    if (sparse[i] && !ffn) base::fail(ErrorKind::unsupported, where, "layer {} has no dense FFN to make experts of", i);
    if (sparse[i]) sibling.spec.blocks[i].ffn = moe;
  }
  const Json config = base::read_json(config_path);
  sibling.config = Writer(config, parent, moe, sparse).write(model_type);
  DifferenceWords words;
  words.cannot = fmt::format("the config of {} cannot say the", model_type);
  words.a = "in the parent", words.b = fmt::format("by {}", model_type);
  words.hint = model_type == kOwn ? "" : "as coterie, the engine's own model_type, more can be said (--as coterie)";
  ModelSpec read;
  try {
    read = families::read_config(sibling.config, model_type, true);
  } catch (const base::Error& error) {
    throw base::Error(ErrorKind::unsupported, where,
                      fmt::format("cannot be said as {}: {}", model_type, error.message()), words.hint);
  }
  require_same(sibling.spec, read, where, words);
  // What a conversion would put into the tensors is not compared there; here tensors are copied.
  const auto offset = [](const ModelSpec& spec) {
    const models::BlockSpec& block = spec.blocks.front();
    const auto* attention = std::get_if<AttentionSpec>(&block.mixer);
    return std::pair(spec.final_norm.weight_offset, attention ? attention->qk_norm_offset : 0.0f);
  };
  if (offset(parent) != offset(read))
    base::fail(ErrorKind::unsupported, where, "{} norms, which multiply by 1 + w", words.cannot);
  for (size_t i = 0; i < sparse.size(); ++i)
    if (sparse[i])
      require_same_router(moe.router, std::get<MoeSpec>(read.blocks[i].ffn).router, model_type, words.hint);
  return sibling;
}

}  // namespace coterie::surgery
