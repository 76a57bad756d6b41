#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// dots.llm1 (rednote-hilab, 2025, arXiv:2506.05767): DeepSeek-V3's mixture under Qwen3's attention, of which the upper
// layers may slide.
namespace coterie::families {

namespace {

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 152064,
                                   .width = 4608,
                                   .layers = 62,
                                   .heads = 32,
                                   .kv_heads = 32,
                                   .hidden = 10944,
                                   .context = 2048});
  config.set_attention_biases(spec);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
  }
  // No use_sliding_window here: a window that is not null is in use from max_window_layers on.
  const std::optional<int64_t> window = config.sliding_window(4096);
  const int64_t full_layers = config.keys.integer("max_window_layers", 62);
  config.set_windows(spec, window, [&](int64_t layer) { return window && layer >= full_layers; });

  // The reference knows no such key.
  if (const int64_t step = config.keys.integer("moe_layer_freq", 1); step != 1)
    base::fail(base::ErrorKind::unsupported, config.keys.where(), "moe_layer_freq is {}: expected 1", step);
  // How many experts there are and how many serve a token has no default: check() refuses none.
  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(config, {.experts = 0,
                                                 .experts_per_token = 0,
                                                 .groups = 1,
                                                 .groups_kept = 1,
                                                 .scale = 1,
                                                 .renormalise = false,
                                                 .score_alias = "noaux_tc"});
  moe.hidden = config.keys.integer("moe_intermediate_size", 1408);
  deepseek::set_experts(config, spec, moe, {.shared = 0, .dense_layers = 0});
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  for (BlockSpec& block : spec.blocks)
    std::get<layers::AttentionSpec>(block.mixer).qk_norm = layers::AttentionSpec::QkNorm::per_head;
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  const int64_t hidden = metadata.integer("expert_feed_forward_length");
  metadata.set_experts(spec, {.hidden = hidden,
                              .shared_hidden = hidden * metadata.integer("expert_shared_count", 0),
                              .renormalise = false,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = deepseek::has_selection_bias(metadata, spec),
                              .groups = true});
  return spec;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  deepseek::experts_to_config(spec, config);
  config.sliding_window();
}

}  // namespace

const Family kDots1 = {
    .model_type = "dots1",
    .architecture = "dots1",
    .class_name = "Dots1ForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = deepseek::expert_names,
    .to_config = to_config,
    .to_gguf = deepseek::experts_to_gguf,
};

}  // namespace coterie::families
