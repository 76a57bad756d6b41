#include <algorithm>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/families.h"
#include "families/known/qwen_moe.h"

// Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671): fine-grained experts beside one shared expert, whose output a sigmoid
// gates; q, k and v biases. Qwen3-MoE (arXiv:2505.09388): no shared expert, no biases, q/k norms. In both some layers
// may keep a dense FFN.
namespace coterie::families {

namespace qwen {

// Layer i is sparse unless mlp_only_layers names it or decoder_sparse_step skips it.
void set_experts(ConfigReader& config, ModelSpec& spec, layers::MoeSpec moe) {
  const int64_t step = config.keys.integer("decoder_sparse_step", 1);
  if (step < 1)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "decoder_sparse_step is {}: expected at least 1", step);
  const std::vector<int64_t> dense_layers = config.keys.integers("mlp_only_layers");
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    const bool dense = std::find(dense_layers.begin(), dense_layers.end(), layer) != dense_layers.end();
    if (dense || moe.router.experts == 0 || (layer + 1) % step != 0) continue;
    moe.activation = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).activation;
    spec.blocks[i].ffn = moe;
  }
  spec.router_aux_loss = config.router_aux_loss(0.001);
}

ModelSpec moe_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  for (BlockSpec& block : spec.blocks)
    std::get<layers::AttentionSpec>(block.mixer).qk_norm = layers::AttentionSpec::QkNorm::per_head;
  const int64_t dense = metadata.integer("feed_forward_length", 0);
  const int64_t used = std::max<int64_t>(metadata.integer("expert_used_count"), 1);
  metadata.set_experts(spec,
                       {.hidden = metadata.integer("expert_feed_forward_length", dense / used), .renormalise = true});
  return spec;
}

void moe_to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.experts("num_experts");
  const layers::MoeSpec& moe = *first_moe(spec);
  config.json["moe_intermediate_size"] = moe.hidden;
  config.json["norm_topk_prob"] = moe.router.renormalise;
  config.json["decoder_sparse_step"] = 1;
  std::vector<size_t> dense;
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (!std::holds_alternative<layers::MoeSpec>(spec.blocks[i].ffn)) dense.push_back(i);
  config.json["mlp_only_layers"] = dense;
}

}  // namespace qwen

namespace {

void set_experts(ConfigReader& config, ModelSpec& spec, layers::MoeSpec moe, int64_t experts, int64_t chosen) {
  moe.router.experts = config.experts(experts);
  moe.router.experts_per_token = config.experts_per_token(chosen);
  moe.router.renormalise = config.keys.boolean("norm_topk_prob", false);
  qwen::set_experts(config, spec, moe);
}

ModelSpec qwen2_moe_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 151936,
                                   .width = 2048,
                                   .layers = 24,
                                   .heads = 16,
                                   .kv_heads = 16,
                                   .hidden = 5632,
                                   .context = 32768});
  const bool bias = config.keys.boolean("qkv_bias", true);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = bias;
  }
  const bool use_window = config.keys.boolean("use_sliding_window", false);
  const int64_t window_layers = config.keys.integer("max_window_layers", 28);
  std::optional<int64_t> window;
  if (use_window) window = config.sliding_window(4096);
  config.keys.inert({"sliding_window"});
  // The reference's rule for this family: every other one of the first max_window_layers.
  config.set_windows(spec, window,
                     [&](int64_t layer) { return use_window && (layer + 1) % 2 != 0 && layer < window_layers; });
  layers::MoeSpec moe;
  moe.hidden = config.keys.integer("moe_intermediate_size", 1408);
  moe.shared_hidden = config.keys.integer("shared_expert_intermediate_size", 5632);
  moe.shared_gate = true;
  set_experts(config, spec, moe, 60, 4);
  return spec;
}

ModelSpec qwen3_moe_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 151936,
                                   .width = 2048,
                                   .layers = 24,
                                   .heads = 32,
                                   .kv_heads = 4,
                                   .hidden = 6144,
                                   .context = 32768});
  config.set_attention_biases(spec);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
  }
  std::optional<int64_t> window;
  if (config.keys.boolean("use_sliding_window", false)) window = config.sliding_window(4096);
  config.keys.inert({"sliding_window"});
  config.set_window(spec, window);
  layers::MoeSpec moe;
  moe.hidden = config.keys.integer("moe_intermediate_size", 768);
  set_experts(config, spec, moe, 128, 8);
  return spec;
}

// llama.cpp's arrays have one width for all layers, so its files hold sparse layers only.
ModelSpec qwen2_moe_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  const int64_t dense = metadata.integer("feed_forward_length", 0);
  const int64_t used = std::max<int64_t>(metadata.integer("expert_used_count"), 1);
  metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length", dense / used),
                              .shared_hidden = metadata.integer("expert_shared_feed_forward_length", dense),
                              .shared_gate = true,
                              .renormalise = false});
  return spec;
}

NameTable qwen_moe_names() { return hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj"); }

void qwen_moe_to_config(const ModelSpec& spec, ConfigWriter& config) {
  qwen::moe_to_config(spec, config);
  config.json["use_sliding_window"] = config.window() > 0;
  if (config.window() > 0) config.sliding_window();
}

void qwen2_moe_to_config(const ModelSpec& spec, ConfigWriter& config) {
  qwen_moe_to_config(spec, config);
  config.json["shared_expert_intermediate_size"] = first_moe(spec)->shared_hidden;
  config.json["qkv_bias"] = config.attention().q_bias;
  if (config.window() == 0) return;
  config.json["max_window_layers"] = spec.blocks.size();
  config.json["layer_types"] = config.layer_types();
}

void qwen3_moe_to_config(const ModelSpec& spec, ConfigWriter& config) {
  qwen_moe_to_config(spec, config);
  config.attention_bias();
}

constexpr Shape kQwen3MoeShapes[] = {
    {"qwen3-30b-a3b", R"({"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
      "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
      "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true,
      "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6})"},
    {"qwen3-235b-a22b", R"({"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 4096,
      "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_hidden_layers": 94, "num_attention_heads": 64,
      "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true,
      "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6})"},
};

constexpr Shape kQwen2MoeShapes[] = {
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
};

}  // namespace

const Family kQwen2Moe = {
    .model_type = "qwen2_moe",
    .architecture = "qwen2moe",
    .class_name = "Qwen2MoeForCausalLM",
    .from_config = qwen2_moe_from_config,
    .from_gguf = qwen2_moe_from_gguf,
    .hugging_face_names = qwen_moe_names,
    .to_config = qwen2_moe_to_config,
    .gated_shared_expert = true,
    .aliases = {"qwen", "qwen moe"},  // mergekit's
    .shapes = kQwen2MoeShapes,
};
const Family kQwen3Moe = {
    .model_type = "qwen3_moe",
    .architecture = "qwen3moe",
    .class_name = "Qwen3MoeForCausalLM",
    .from_config = qwen3_moe_from_config,
    .from_gguf = qwen::moe_from_gguf,
    .hugging_face_names = qwen_moe_names,
    .to_config = qwen3_moe_to_config,
    .aliases = {"qwen3", "qwen3 moe"},  // mergekit's
    .shapes = kQwen3MoeShapes,
};

}  // namespace coterie::families
