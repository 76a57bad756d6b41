#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// K-EXAONE (LG AI Research 2025): DeepSeek-V3's mixture under Qwen3's attention; three layers slide for one that does
// not, and that one has no positions.
namespace coterie::families {

namespace {

using layers::AttentionSpec;

// Layers without positions are those that do not slide, where some do.
void drop_positions(ModelSpec& spec, bool windows) {
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.qk_norm = AttentionSpec::QkNorm::per_head;
    if (windows && attention.window == 0) attention.rope.reset();
  }
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 102400,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .kv_heads = 32,
                                   .hidden = 16384,
                                   .context = 2048,
                                   .eps = 1e-5});
  const std::optional<int64_t> window = config.sliding_window(4096);
  // A number, or a word that layer_types spells out.
  const base::Json* pattern = config.keys.value("sliding_window_pattern");
  const bool listed = !config.keys.strings("layer_types").empty();
  const int64_t period = pattern && pattern->is_number_integer() ? pattern->get<int64_t>() : 4;
  if (!listed && ((pattern && !pattern->is_null() && !pattern->is_number_integer()) || period < 1 || !window))
    base::fail(
        base::ErrorKind::unsupported, config.keys.where(),
        "without layer_types a sliding_window is expected, and a sliding_window_pattern that is a number from 1");
  config.set_windows(spec, window, [&](int64_t layer) { return (layer + 1) % period != 0; });
  drop_positions(spec, window.has_value());

  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(
      config, {.experts = 64, .experts_per_token = 8, .groups = 1, .groups_kept = 1, .scale = 2.5});
  moe.hidden = config.keys.integer("moe_intermediate_size", 1024);
  deepseek::set_experts(config, spec, moe, {.shared = 1, .dense_layers = 1, .by_list = true});
  // Published files say once more which layers have experts.
  std::vector<bool> sparse;
  for (const BlockSpec& block : spec.blocks) sparse.push_back(std::holds_alternative<layers::MoeSpec>(block.ffn));
  config.expect("is_moe_layer", sparse);
  config.keys.inert({"num_nextn_predict_layers", "first_last_k_dense_replace"});
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  const int64_t hidden = metadata.integer("expert_feed_forward_length");
  const int64_t shared = hidden * metadata.integer("expert_shared_count", 0);
  metadata.set_experts(spec, {.hidden = hidden,
                              .shared_hidden = metadata.integer("expert_shared_feed_forward_length", shared),
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = deepseek::has_selection_bias(metadata, spec),
                              .groups = true});
  const int64_t window = metadata.integer("attention.sliding_window");
  metadata.set_windows(spec, window, 4);
  const double local = metadata.number("rope.freq_base_swa", metadata.number("rope.freq_base", 10000.0));
  for (BlockSpec& block : spec.blocks) std::get<AttentionSpec>(block.mixer).rope->theta = local;
  drop_positions(spec, window > 0);
  deepseek::drop_prediction_layers(metadata, spec);
  return spec;
}

NameTable names() {
  NameTable table = deepseek::expert_names();
  table.names["blocks.{layer}.moe.router.selection_bias"] = {{"model.layers.{layer}.mlp.e_score_correction_bias"},
                                                             {"model.layers.{layer}.mlp.gate.e_score_correction_bias"}};
  table.inert.push_back("mtp.*");  // multi-token prediction
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  deepseek::experts_to_config(spec, config);
  for (const auto& [theirs, ours] :
       {std::pair("n_routed_experts", "num_experts"), std::pair("n_shared_experts", "num_shared_experts")}) {
    config.json[ours] = config.json[theirs];
    config.json.erase(theirs);
  }
  config.json["layer_types"] = config.layer_types();
  config.sliding_window();
  // The rotary embedding is that of the layers that slide; the first may not.
  for (const BlockSpec& block : spec.blocks)
    if (const auto& attention = std::get<AttentionSpec>(block.mixer); attention.rope && !config.parent())
      config.rope(*attention.rope);
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  deepseek::experts_to_gguf(spec, metadata);
  metadata.window_pattern(spec);
  for (const BlockSpec& block : spec.blocks)
    if (const auto& attention = std::get<AttentionSpec>(block.mixer); attention.rope) metadata.rope(*attention.rope);
}

}  // namespace

const Family kExaoneMoe = {
    .model_type = "exaone_moe",
    .architecture = "exaone-moe",
    .class_name = "ExaoneMoeForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .says = deepseek::has_experts,
};

}  // namespace coterie::families
