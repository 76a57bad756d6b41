#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/families.h"

// Qwen2 (arXiv:2407.10671): llama with biases on q, k and v. Qwen3 (arXiv:2505.09388): no biases, an RMSNorm over
// each query and key head. Both may let the upper layers slide.
namespace coterie::families {

namespace {

void set_windows(ConfigReader& config, ModelSpec& spec) {
  const bool use = config.keys.boolean("use_sliding_window", false);
  const int64_t full_layers = config.keys.integer("max_window_layers", 28);
  std::optional<int64_t> window;
  if (use) window = config.sliding_window(4096);
  config.keys.inert({"sliding_window"});
  config.set_windows(spec, window, [&](int64_t layer) { return window && layer >= full_layers; });
}

ModelSpec qwen2_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 151936,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .kv_heads = 32,
                                   .hidden = 22016,
                                   .context = 32768});
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = true;
  }
  set_windows(config, spec);
  return spec;
}

ModelSpec qwen3_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 151936,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .kv_heads = 32,
                                   .head_dim = 128,
                                   .hidden = 22016,
                                   .context = 32768});
  config.set_attention_biases(spec);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
  }
  set_windows(config, spec);
  return spec;
}

ModelSpec qwen2_from_gguf(MetadataReader& metadata) { return metadata.decoder(ops::RopeTable::Style::half); }

ModelSpec qwen3_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  for (BlockSpec& block : spec.blocks)
    std::get<layers::AttentionSpec>(block.mixer).qk_norm = layers::AttentionSpec::QkNorm::per_head;
  return spec;
}

void qwen2_to_config(const ModelSpec&, ConfigWriter& config) {
  config.decoder();
  config.json["use_sliding_window"] = false;
}

void qwen3_to_config(const ModelSpec& spec, ConfigWriter& config) {
  qwen2_to_config(spec, config);
  config.attention_bias();
}

std::string_view qwen2_moe_type(bool) { return "qwen2_moe"; }
std::string_view qwen3_moe_type(bool) { return "qwen3_moe"; }

constexpr Shape kQwen2Shapes[] = {
    {"qwen2.5-7b", R"({"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
      "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
      "rms_norm_eps": 1e-6, "rope_theta": 1e6})"},
};

constexpr Shape kQwen3Shapes[] = {
    {"qwen3-8b", R"({"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288,
      "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
      "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6})"},
};

}  // namespace

const Family kQwen2 = {
    .model_type = "qwen2",
    .architecture = "qwen2",
    .class_name = "Qwen2ForCausalLM",
    .from_config = qwen2_from_config,
    .from_gguf = qwen2_from_gguf,
    .hugging_face_names = hugging_face_names,
    .to_config = qwen2_to_config,
    .moe_type = qwen2_moe_type,
    .shapes = kQwen2Shapes,
};
const Family kQwen3 = {
    .model_type = "qwen3",
    .architecture = "qwen3",
    .class_name = "Qwen3ForCausalLM",
    .from_config = qwen3_from_config,
    .from_gguf = qwen3_from_gguf,
    .hugging_face_names = hugging_face_names,
    .to_config = qwen3_to_config,
    .moe_type = qwen3_moe_type,
    .shapes = kQwen3Shapes,
};

}  // namespace coterie::families
