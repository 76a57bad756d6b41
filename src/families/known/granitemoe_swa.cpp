#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/known/families.h"
#include "families/known/granite.h"

// Granite Swash (IBM 2026): Granite's mixture with sliding windows, an attention sink for each head, and a rotary base
// for each layer, of which 0 is none.
namespace coterie::families {

namespace {

using layers::AttentionSpec;

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = granite::read_config(config);
  config.set_windows(spec, config.sliding_window(128), [](int64_t layer) { return layer % 4 != 0; });
  const std::vector<double> thetas = config.keys.numbers("layer_rope_theta");
  if (!thetas.empty() && thetas.size() != spec.blocks.size())
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "layer_rope_theta has {} entries for {} layers",
               thetas.size(), spec.blocks.size());
  layers::MoeSpec moe;
  moe.router.experts = config.experts(8);
  moe.router.experts_per_token = config.experts_per_token(2);
  moe.router.order = layers::RouterSpec::Order::select_then_score;
  moe.shared_hidden = config.keys.integer("shared_intermediate_size", 0);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    attention.sinks = true;
    if (!thetas.empty() && thetas[i] == 0) attention.rope.reset();
    if (!thetas.empty() && thetas[i] != 0) attention.rope->theta = thetas[i];
    turn_into_experts(spec.blocks[i], moe);
  }
  spec.router_aux_loss = config.router_aux_loss(0.001);
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = granite::read_gguf(metadata);
  metadata.set_windows(spec, metadata.integer("attention.sliding_window"), 4);
  const std::vector<int64_t> rotated = metadata.per_layer("attention.rope_pattern", spec.blocks.size(), 1);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    attention.sinks = metadata.has_tensor(fmt::format("blk.{}.attn_sinks.weight", i));
    if (rotated[i] == 0) attention.rope.reset();
  }
  return spec;
}

NameTable names() {
  NameTable table = granite::moe_names();
  table.names["blocks.{layer}.attention.sinks"] = {{"model.layers.{layer}.self_attn.sinks"}};
  // The reference saves the names that it has in memory.
  for (const char* part : {"router", "experts.gate", "experts.up", "experts.down"}) {
    std::vector<NameInFile>& found = table.names["blocks.{layer}.moe." + std::string(part)];
    std::swap(found[0], found[1]);
  }
  return table;
}

// llama.cpp keeps the shared expert's gate and up as one tensor, under the name of up.
void adjust_gguf_names(NameTable& table, Direction direction, const checkpoint::TensorSource* source) {
  const bool apart = direction == Direction::reading && (!source || source->find("blk.0.ffn_gate_shexp.weight"));
  if (apart) return;
  const std::string path = "blocks.{layer}.moe.shared.", both = "blk.{layer}.ffn_up_shexp.weight";
  table.names[path + "gate"] = {{both, Piece::first_half}};
  table.names[path + "up"] = {{both, Piece::second_half}};
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  config.multipliers();
  config.experts("num_local_experts");
  const layers::MoeSpec& moe = *first_moe(spec);
  config.json["intermediate_size"] = moe.hidden;
  config.json["shared_intermediate_size"] = moe.shared_hidden;
  config.json["layer_types"] = config.layer_types();
  config.sliding_window();
  if (config.window() == 0) config.json.erase("sliding_window");
  base::Json thetas = base::Json::array();
  for (const BlockSpec& block : spec.blocks) {
    const auto& rope = std::get<AttentionSpec>(block.mixer).rope;
    if (rope && !config.parent()) config.rope(*rope);
    thetas.push_back(rope ? decimal(rope->theta) : 0);
  }
  config.json["layer_rope_theta"] = thetas;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  granite::write_gguf(spec, metadata);
  metadata.window_pattern(spec);
  metadata.put("logit_scale", static_cast<double>(spec.logits_scaling));  // llama.cpp asks for it
  std::vector<bool> rotated;
  for (const BlockSpec& block : spec.blocks) {
    const auto& rope = std::get<AttentionSpec>(block.mixer).rope;
    rotated.push_back(rope.has_value());
    if (rope) metadata.rope(*rope);
  }
  metadata.put("attention.rope_pattern", rotated);
}

}  // namespace

const Family kGraniteMoeSwa = {
    .model_type = "granitemoe_swa",
    .architecture = "granite_swa",
    .class_name = "GraniteMoeSWAForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
};

}  // namespace coterie::families
