#include "families/shapes.h"

#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "families/family.h"

namespace coterie::families {

namespace {

// The keys of the published config.json files that say what the model is; the families' defaults are not relied on.
constexpr std::pair<std::string_view, std::string_view> kShapes[] = {
    {"mixtral-8x7b", R"({"model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
      "num_experts_per_tok": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6})"},
    {"mixtral-8x22b", R"({"model_type": "mixtral", "vocab_size": 32768, "hidden_size": 6144,
      "intermediate_size": 16384, "num_hidden_layers": 56, "num_attention_heads": 48, "num_key_value_heads": 8,
      "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 65536, "rms_norm_eps": 1e-5,
      "rope_theta": 1e6})"},
    {"olmoe-1b-7b", R"({"model_type": "olmoe", "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 1024,
      "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64,
      "num_experts_per_tok": 8, "norm_topk_prob": false, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
      "rope_theta": 10000})"},
    {"qwen3-30b-a3b", R"({"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
      "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
      "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true,
      "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6})"},
    {"qwen3-235b-a22b", R"({"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 4096,
      "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_hidden_layers": 94, "num_attention_heads": 64,
      "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true,
      "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6})"},
    {"qwen2-57b-a14b", R"({"model_type": "qwen2_moe", "vocab_size": 151936, "hidden_size": 3584,
      "intermediate_size": 18944, "moe_intermediate_size": 2560, "shared_expert_intermediate_size": 20480,
      "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "num_experts": 64,
      "num_experts_per_tok": 8, "norm_topk_prob": false, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
      "rope_theta": 1e6})"},
    {"qwen1.5-moe-a2.7b", R"({"model_type": "qwen2_moe", "vocab_size": 151936, "hidden_size": 2048,
      "intermediate_size": 5632, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
      "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 60,
      "num_experts_per_tok": 4, "norm_topk_prob": false, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
      "rope_theta": 1e6})"},
    {"deepseek-v2-lite", R"({"model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048,
      "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16,
      "num_key_value_heads": 16, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
      "first_k_dense_replace": 1, "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128,
      "qk_rope_head_dim": 64, "v_head_dim": 128, "topk_method": "greedy", "routed_scaling_factor": 1.0,
      "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000,
      "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                       "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}})"},
    {"mistral-7b", R"({"model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
      "sliding_window": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000})"},
    {"llama-3-8b", R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
      "rms_norm_eps": 1e-5, "rope_theta": 500000})"},
    {"llama-3.2-1b", R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
      "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
      "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000, "tie_word_embeddings": true,
      "rope_scaling": {"rope_type": "llama3", "factor": 32, "low_freq_factor": 1, "high_freq_factor": 4,
                       "original_max_position_embeddings": 8192}})"},
    {"qwen2.5-7b", R"({"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
      "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
      "rms_norm_eps": 1e-6, "rope_theta": 1e6})"},
    {"qwen3-8b", R"({"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288,
      "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
      "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6})"},
    {"smollm2-135m", R"({"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
      "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
      "rms_norm_eps": 1e-5, "rope_theta": 100000, "tie_word_embeddings": true})"},
};

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const auto& [name, config] : kShapes) names.emplace_back(name);
  return names;
}

models::ModelSpec shape(std::string_view name, int64_t layers) {
  const auto spec_of = [&](base::Json json) {
    if (layers != 0) {
      const auto held = json.find("num_hidden_layers");
      if (held != json.end() && held->is_number_integer() && layers > held->get<int64_t>())
        base::fail(base::ErrorKind::bad_input, "--layers", "is {}, {} has {}", layers, name, held->get<int64_t>());
      json["num_hidden_layers"] = layers;
    }
    return read_config(json, std::string(name), true);
  };
  if (name.ends_with(".json")) return spec_of(base::read_json(name));
  std::string known;
  for (const auto& [known_name, config] : kShapes) {
    if (known_name == name) return spec_of(base::parse_json(config, name));
    known += (known.empty() ? "" : ", ") + std::string(known_name);
  }
  base::fail(base::ErrorKind::bad_input, "--shape", "\"{}\" is no config.json and not known; known are {}", name,
             known);
}

}  // namespace coterie::families
