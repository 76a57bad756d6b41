#include "families/config/config_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "layers/attention/rope.h"

namespace coterie::families {

std::string activation_name(ops::Activation activation) {
  switch (activation) {
    case ops::Activation::silu: return "silu";
    case ops::Activation::gelu: return "gelu";
    case ops::Activation::gelu_tanh: return "gelu_pytorch_tanh";
    case ops::Activation::relu: return "relu";
    case ops::Activation::relu2: return "relu2";
    case ops::Activation::identity: return "linear";
  }
  base::fail(base::ErrorKind::internal, "config", "an activation without a name");
}

namespace {

using base::Json;
using layers::AttentionSpec;
using layers::DenseFfnSpec;
using layers::MoeSpec;
using layers::RopeSpec;

/// A float as people write it: 1e-05, not 9.99999974e-06.
double shortest(double value) {
  const auto narrow = static_cast<float>(value);
  return double{narrow} == value ? std::stod(fmt::format("{}", narrow)) : value;
}

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
  if (std::abs(magnitude / own - 1) > 1e-6) config["rope_scaling"]["attention_factor"] = shortest(magnitude);
}

void put_rope(const RopeSpec& read, Json& config) {
  const std::optional<RopeSpec> llama3 = read.divisors.empty() ? std::nullopt : llama3_of(read);
  const RopeSpec& rope = llama3 ? *llama3 : read;
  config["rope_theta"] = shortest(rope.theta);
  switch (rope.scaling) {
    case RopeSpec::Scaling::none: return;
    case RopeSpec::Scaling::longrope:
      config["rope_scaling"] = {
          {"type", "longrope"}, {"short_factor", rope.short_factors}, {"long_factor", rope.long_factors}};
      config["original_max_position_embeddings"] = rope.original_context;
      put_longrope_magnitude(rope, config);
      return;
    case RopeSpec::Scaling::linear:
    case RopeSpec::Scaling::dynamic:
      config["rope_scaling"] = {{"rope_type", rope.scaling == RopeSpec::Scaling::linear ? "linear" : "dynamic"},
                                {"factor", shortest(rope.factor)}};
      return;
    case RopeSpec::Scaling::llama3:
      config["rope_scaling"] = {{"rope_type", "llama3"},
                                {"factor", shortest(rope.factor)},
                                {"low_freq_factor", shortest(rope.low_freq_factor)},
                                {"high_freq_factor", shortest(rope.high_freq_factor)},
                                {"original_max_position_embeddings", rope.original_context}};
      return;
    case RopeSpec::Scaling::yarn:
      config["rope_scaling"] = {{"rope_type", "yarn"},
                                {"factor", shortest(rope.factor)},
                                {"beta_fast", shortest(rope.beta_fast)},
                                {"beta_slow", shortest(rope.beta_slow)},
                                {"original_max_position_embeddings", rope.original_context}};
      const double own = rope.factor <= 1 ? 1 : 0.1 * std::log(rope.factor) + 1;
      const auto magnitude = static_cast<double>(layers::rope_table(rope).magnitude);
      if (std::abs(magnitude / own - 1) > 1e-6) config["rope_scaling"]["attention_factor"] = magnitude;
  }
}

const MoeSpec* first_moe(const models::ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<MoeSpec>(&block.ffn)) return moe;
  return nullptr;
}

void put_window(const models::ModelSpec& spec, Json& config) {
  const int64_t window = std::get<AttentionSpec>(spec.blocks.front().mixer).window;
  config["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
}

void put_experts(const models::ModelSpec& spec, const char* count, Json& config) {
  const MoeSpec* moe = first_moe(spec);
  if (!moe) return;
  config[count] = moe->router.experts;
  config["num_experts_per_tok"] = moe->router.experts_per_token;
}

void put_qwen_experts(const models::ModelSpec& spec, Json& config) {
  put_experts(spec, "num_experts", config);
  const MoeSpec* moe = first_moe(spec);
  if (!moe) return;
  config["moe_intermediate_size"] = moe->hidden;
  config["norm_topk_prob"] = moe->router.renormalise;
  config["decoder_sparse_step"] = 1;
  config["use_sliding_window"] = false;
  std::vector<size_t> dense;
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (std::holds_alternative<DenseFfnSpec>(spec.blocks[i].ffn)) dense.push_back(i);
  config["mlp_only_layers"] = dense;
  if (moe->shared_hidden) config["shared_expert_intermediate_size"] = moe->shared_hidden;
}

void put_attention_bias(const models::ModelSpec& spec, Json& config) {
  config["attention_bias"] = std::get<AttentionSpec>(spec.blocks.front().mixer).q_bias;
}
void put_ffn_bias(const models::ModelSpec& spec, Json& config) {
  config["mlp_bias"] = std::get<DenseFfnSpec>(spec.blocks.front().ffn).bias;
}

void put_granite(const models::ModelSpec& spec, Json& config) {
  put_attention_bias(spec, config);
  const auto number = [](float value) { return shortest(static_cast<double>(value)); };
  config["embedding_multiplier"] = number(spec.embedding_multiplier);
  config["logits_scaling"] = number(spec.logits_scaling);
  config["residual_multiplier"] = number(spec.blocks.front().residual_multiplier);
  config["attention_multiplier"] = number(std::get<AttentionSpec>(spec.blocks.front().mixer).scale);
}

void put_gemma(const models::ModelSpec& spec, Json& config) {
  put_attention_bias(spec, config);
  const auto& attention = std::get<AttentionSpec>(spec.blocks.front().mixer);
  const double scalar = 1 / (static_cast<double>(attention.scale) * static_cast<double>(attention.scale));
  // The reference takes whole numbers only.
  config["query_pre_attn_scalar"] =
      std::abs(scalar - std::round(scalar)) < 1e-3 ? Json(std::llround(scalar)) : Json(scalar);
  const auto cap = [](float value) { return value > 0 ? Json(shortest(static_cast<double>(value))) : Json(nullptr); };
  config["final_logit_softcapping"] = cap(spec.logits_softcap.value_or(0));
  config["attn_logit_softcapping"] = cap(attention.softcap);
  config["hidden_activation"] = config["hidden_act"];
  std::vector<std::string> types;
  for (const models::BlockSpec& block : spec.blocks) {
    const auto& one = std::get<AttentionSpec>(block.mixer);
    types.push_back(one.window > 0 ? "sliding_attention" : "full_attention");
    if (one.window == 0 && one.rope) put_rope(*one.rope, config);
    if (one.window == 0) continue;
    config["sliding_window"] = one.window;
    if (one.rope && config["model_type"] == "gemma3_text") config["rope_local_base_freq"] = shortest(one.rope->theta);
  }
  config["layer_types"] = types;
}

// DeepSeek-MoE and those after it (known/deepseek_experts.cpp).
void put_shared_experts(const models::ModelSpec& spec, Json& config) {
  const MoeSpec* moe = first_moe(spec);
  const layers::RouterSpec& router = moe->router;
  put_experts(spec, "n_routed_experts", config);
  config["moe_intermediate_size"] = moe->hidden;
  config["n_shared_experts"] = moe->shared_hidden / std::max<int64_t>(moe->hidden, 1);
  int64_t dense = 0;
  while (!std::holds_alternative<MoeSpec>(spec.blocks[static_cast<size_t>(dense)].ffn)) ++dense;
  config["first_k_dense_replace"] = dense;
  config["n_group"] = router.groups, config["topk_group"] = router.groups_kept;
  config["norm_topk_prob"] = router.renormalise;
  config["routed_scaling_factor"] = shortest(static_cast<double>(router.scale));
}

void put_latent(const models::ModelSpec& spec, Json& config) {
  const auto& mla = std::get<layers::LatentAttentionSpec>(spec.blocks.front().mixer);
  config["q_lora_rank"] = mla.q_rank > 0 ? Json(mla.q_rank) : Json(nullptr);
  config["kv_lora_rank"] = mla.kv_rank;
  config["qk_nope_head_dim"] = mla.nope_dim, config["qk_rope_head_dim"] = mla.rope_dim;
  config["v_head_dim"] = mla.value_dim;
  config["attention_bias"] = mla.bias;
  if (mla.rope.scaling != RopeSpec::Scaling::yarn) return;
  // The scores' scale is that of the width times the square of 0.1 mscale_all_dim ln(factor) + 1.
  const double magnitude = std::sqrt(static_cast<double>(mla.scale) * std::sqrt(static_cast<double>(mla.head_dim())));
  const double mscale = (magnitude - 1) / (0.1 * std::log(mla.rope.factor));
  if (std::abs(magnitude - 1) < 1e-6) return;
  Json& scaling = config["rope_scaling"];
  scaling["mscale_all_dim"] = std::round(mscale * 1e4) / 1e4;
  // Beside it the rotary part's own magnitude is said by mscale, or outright.
  if (std::abs(static_cast<double>(layers::rope_table(mla.rope).magnitude) - 1) > 1e-6) return;
  scaling["mscale"] = scaling["mscale_all_dim"];
  scaling.erase("attention_factor");
}

/// A family: what its config says beside what all say.
struct Row {
  const char *model_type, *architecture, *class_name;
  bool experts;
  void (*put)(const models::ModelSpec& spec, Json& config);
};

constexpr Row kRows[] = {
    {"llama", "llama", "LlamaForCausalLM", false,
     [](const models::ModelSpec& spec, Json& config) {
       put_attention_bias(spec, config);
       put_ffn_bias(spec, config);
     }},
    {"mistral", "llama", "MistralForCausalLM", false, put_window},
    {"mixtral", "llama", "MixtralForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_window(spec, config);
       put_experts(spec, "num_local_experts", config);
     }},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false,
     [](const models::ModelSpec&, Json& config) { config["use_sliding_window"] = false; }},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false,
     [](const models::ModelSpec& spec, Json& config) {
       config["use_sliding_window"] = false;
       put_attention_bias(spec, config);
     }},
    {"qwen2_moe", "qwen2moe", "Qwen2MoeForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_qwen_experts(spec, config);
       config["qkv_bias"] = std::get<AttentionSpec>(spec.blocks.front().mixer).q_bias;
     }},
    {"qwen3_moe", "qwen3moe", "Qwen3MoeForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_qwen_experts(spec, config);
       put_attention_bias(spec, config);
     }},
    {"olmoe", "olmoe", "OlmoeForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_experts(spec, "num_experts", config);
       put_attention_bias(spec, config);
       config["norm_topk_prob"] = first_moe(spec)->router.renormalise;
       const auto& attention = std::get<AttentionSpec>(spec.blocks.front().mixer);
       config["clip_qkv"] =
           attention.clip_qkv ? Json(shortest(static_cast<double>(*attention.clip_qkv))) : Json(nullptr);
     }},
    {"olmo2", "olmo2", "Olmo2ForCausalLM", false, put_attention_bias},
    {"gemma2", "gemma2", "Gemma2ForCausalLM", false, put_gemma},
    {"gemma3_text", "gemma3", "Gemma3ForCausalLM", false, put_gemma},
    {"phi3", "phi3", "Phi3ForCausalLM", false,
     [](const models::ModelSpec& spec, Json& config) {
       put_window(spec, config);
       config["pad_token_id"] = nullptr;  // the reference's own may be outside of the vocabulary
       const auto& attention = std::get<AttentionSpec>(spec.blocks.front().mixer);
       if (attention.rope && attention.rope->dims != attention.head_dim)
         config["partial_rotary_factor"] =
             static_cast<double>(attention.rope->dims) / static_cast<double>(attention.head_dim);
     }},
    {"granite", "granite", "GraniteForCausalLM", false,
     [](const models::ModelSpec& spec, Json& config) {
       put_granite(spec, config);
       put_ffn_bias(spec, config);
     }},
    {"granitemoe", "granitemoe", "GraniteMoeForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_granite(spec, config);
       put_experts(spec, "num_local_experts", config);
     }},
    {"granitemoeshared", "granitemoe", "GraniteMoeSharedForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_granite(spec, config);
       put_experts(spec, "num_local_experts", config);
       config["shared_intermediate_size"] = first_moe(spec)->shared_hidden;
     }},
    {"deepseek_v2", "deepseek2", "DeepseekV2ForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_latent(spec, config);
       put_shared_experts(spec, config);
       config["topk_method"] = first_moe(spec)->router.groups > 1 ? "group_limited_greedy" : "greedy";
     }},
    {"deepseek_v3", "deepseek2", "DeepseekV3ForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_latent(spec, config);
       put_shared_experts(spec, config);
       config["num_nextn_predict_layers"] = 0;
     }},
    {"glm4_moe", "glm4moe", "Glm4MoeForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_attention_bias(spec, config);
       put_shared_experts(spec, config);
       const auto& attention = std::get<AttentionSpec>(spec.blocks.front().mixer);
       config["use_qk_norm"] = attention.qk_norm != AttentionSpec::QkNorm::none;
       config["partial_rotary_factor"] =
           static_cast<double>(attention.rope->dims) / static_cast<double>(attention.head_dim);
       config["num_nextn_predict_layers"] = 0;
     }},
    {"dots1", "dots1", "Dots1ForCausalLM", true,
     [](const models::ModelSpec& spec, Json& config) {
       put_attention_bias(spec, config);
       put_shared_experts(spec, config);
       put_window(spec, config);
     }},
};

}  // namespace

std::vector<float> llama3_divisors(const RopeSpec& rope) {
  RopeSpec plain = rope;
  plain.scaling = RopeSpec::Scaling::none;
  const std::vector<float> unscaled = layers::rope_table(plain).frequency;
  std::vector<float> divisors = layers::rope_table(rope).frequency;
  for (size_t i = 0; i < divisors.size(); ++i) divisors[i] = unscaled[i] / divisors[i];
  return divisors;
}

std::string exported_model_types() {
  std::string list;
  for (const Row& row : kRows) list += (list.empty() ? "" : ", ") + std::string(row.model_type);
  return list;
}

std::vector<std::string> hugging_face_types(const models::ModelSpec& spec, const std::string& architecture) {
  std::vector<std::string> types;
  const MoeSpec* moe = first_moe(spec);
  for (const Row& row : kRows) {
    if (row.architecture != architecture || row.experts != (moe != nullptr)) continue;
    const bool shared = std::string_view(row.model_type) == "granitemoeshared";
    if (architecture == "granitemoe" && shared != (moe->shared_hidden > 0)) continue;
    types.emplace_back(row.model_type);
  }
  return types;
}

Json hugging_face_config(const models::ModelSpec& spec, const std::string& model_type) {
  const Row* row = nullptr;
  for (const Row& one : kRows)
    if (one.model_type == model_type) row = &one;
  base::require(row != nullptr, "config", "no config.json is made for {}", model_type);
  const auto* attention = std::get_if<AttentionSpec>(&spec.blocks.front().mixer);
  const auto* latent = std::get_if<layers::LatentAttentionSpec>(&spec.blocks.front().mixer);
  base::require(attention || latent, "config", "a {} without attention", model_type);
  const MoeSpec* moe = first_moe(spec);
  int64_t hidden = moe ? moe->hidden : 0;
  ops::Activation activation = moe ? moe->activation : ops::Activation::silu;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* dense = std::get_if<DenseFfnSpec>(&block.ffn))
      hidden = dense->hidden, activation = dense->activation;
  Json config = {{"architectures", {row->class_name}},
                 {"model_type", model_type},
                 {"vocab_size", spec.vocabulary},
                 {"hidden_size", spec.width},
                 {"intermediate_size", hidden},
                 {"num_hidden_layers", spec.blocks.size()},
                 {"num_attention_heads", attention ? attention->heads : latent->heads},
                 {"num_key_value_heads", attention ? attention->kv_heads : latent->heads},
                 {"max_position_embeddings", spec.context},
                 {"rms_norm_eps", shortest(static_cast<double>(spec.final_norm.eps))},
                 {"tie_word_embeddings", spec.tied_embeddings},
                 {"hidden_act", activation_name(activation)}};
  if (attention) config["head_dim"] = attention->head_dim;
  if (const RopeSpec* rope = rope_of(spec, spec.blocks.front())) put_rope(*rope, config);
  row->put(spec, config);
  return config;
}

}  // namespace coterie::families
