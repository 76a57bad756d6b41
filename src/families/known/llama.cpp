#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/families.h"

// Llama (Touvron et al. 2023, arXiv:2302.13971; Llama 3: arXiv:2407.21783) and Mistral 7B (Jiang et al. 2023,
// arXiv:2310.06825): pre-norm blocks of grouped-query attention with RoPE and a SwiGLU FFN. Mistral adds a sliding
// window.
namespace coterie::families {

namespace {

ModelSpec llama_from_config(ConfigReader& config) {
  ModelSpec spec =
      config.decoder({.vocabulary = 32000, .width = 4096, .layers = 32, .heads = 32, .hidden = 11008, .context = 2048});
  config.set_attention_biases(spec);
  config.set_ffn_biases(spec);
  // llama has no window; the key may only repeat that.
  for (const std::string& type : config.keys.strings("layer_types"))
    if (type != "full_attention")
      base::fail(base::ErrorKind::unsupported, config.keys.where(), "layer_types has {}, which llama does not have",
                 type);
  return spec;
}

ModelSpec mistral_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 32000,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .kv_heads = 8,
                                   .hidden = 14336,
                                   .context = 4096 * 32});
  config.set_window(spec, config.sliding_window(4096));
  return spec;
}

// GGUF calls llama, mistral and mixtral "llama". Query and key rows are permuted so that rotary pairs lie side by side.
ModelSpec llama_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::interleaved);
  metadata.set_window(spec);
  if (metadata.has("expert_count") && metadata.integer("expert_count") > 0) {
    const int64_t hidden = metadata.has("expert_feed_forward_length") ? metadata.integer("expert_feed_forward_length")
                                                                      : metadata.integer("feed_forward_length");
    metadata.set_experts(spec, {.hidden = hidden, .renormalise = true});
  }
  return spec;
}

void llama_to_config(const ModelSpec&, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  config.ffn_bias();
}

void mistral_to_config(const ModelSpec&, ConfigWriter& config) {
  config.decoder();
  config.sliding_window();
}

// Without a shared expert a mixture is Mixtral's; with one Qwen2-MoE can say it.
std::string_view moe_type(bool shared) { return shared ? "qwen2_moe" : "mixtral"; }

bool is_dense(const ModelSpec& spec) { return first_moe(spec) == nullptr; }

constexpr Shape kMistralShapes[] = {
    {"mistral-7b", R"({"model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
      "sliding_window": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000})"},
};

constexpr Shape kLlamaShapes[] = {
    {"llama-3-8b", R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
      "rms_norm_eps": 1e-5, "rope_theta": 500000})"},
    {"llama-3.2-1b", R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
      "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
      "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000, "tie_word_embeddings": true,
      "rope_scaling": {"rope_type": "llama3", "factor": 32, "low_freq_factor": 1, "high_freq_factor": 4,
                       "original_max_position_embeddings": 8192}})"},
    {"smollm2-135m", R"({"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
      "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
      "rms_norm_eps": 1e-5, "rope_theta": 100000, "tie_word_embeddings": true})"},
};

}  // namespace

const Family kLlama = {
    .model_type = "llama",
    .architecture = "llama",
    .class_name = "LlamaForCausalLM",
    .from_config = llama_from_config,
    .from_gguf = llama_from_gguf,
    .hugging_face_names = hugging_face_names,
    .to_config = llama_to_config,
    .moe_type = moe_type,
    .shapes = kLlamaShapes,
    .says = is_dense,
};
const Family kMistral = {
    .model_type = "mistral",
    .architecture = "llama",
    .class_name = "MistralForCausalLM",
    .from_config = mistral_from_config,
    .from_gguf = llama_from_gguf,
    .hugging_face_names = hugging_face_names,
    .to_config = mistral_to_config,
    .moe_type = moe_type,
    .shapes = kMistralShapes,
    .says = is_dense,
};

}  // namespace coterie::families
