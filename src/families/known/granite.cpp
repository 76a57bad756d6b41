#include "families/known/granite.h"
#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"

// Granite 3 (IBM 2024): llama with four multipliers: of the embeddings, of what each half of a block adds, of q·k in
// place of the root of the head's width, and a divisor of the logits. The MoEs choose experts by logit and take the
// softmax of the chosen; granitemoeshared adds an expert that every token uses.
namespace coterie::families {

namespace granite {

ModelSpec read_config(ConfigReader& config) {
  ModelSpec spec =
      config.decoder({.vocabulary = 32000, .width = 4096, .layers = 32, .heads = 32, .hidden = 11008, .context = 2048});
  spec.embedding_multiplier = static_cast<float>(config.keys.number("embedding_multiplier", 1));
  spec.logits_scaling = static_cast<float>(config.keys.number("logits_scaling", 1));
  if (spec.logits_scaling == 0)
    base::fail(base::ErrorKind::bad_input, config.keys.where(),
               "logits_scaling is 0: expected another number, by which logits are divided");
  const auto residual = static_cast<float>(config.keys.number("residual_multiplier", 1));
  const auto scale = static_cast<float>(config.keys.number("attention_multiplier", 1));
  config.set_attention_biases(spec);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.scale = scale;
    block.residual_multiplier = residual;
  }
  return spec;
}

ModelSpec read_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::interleaved);
  const auto multiplier = [&](std::string_view key) {  // 0 is none, as in llama.cpp
    const double value = metadata.number(key, 0.0);
    return value == 0 ? 1.0f : static_cast<float>(value);
  };
  spec.embedding_multiplier = multiplier("embedding_scale");
  spec.logits_scaling = multiplier("logit_scale");
  const float residual = multiplier("residual_scale");
  const double scale = metadata.number("attention.scale", 0.0);
  const bool rope = metadata.boolean("rope.scaling.finetuned", true);  // llama.cpp's switch for the positions
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    if (scale != 0) attention.scale = static_cast<float>(scale);
    if (!rope) attention.rope.reset();
    block.residual_multiplier = residual;
  }
  if (metadata.integer("expert_count", 0) == 0) return spec;
  metadata.set_experts(spec, {.hidden = metadata.integer("feed_forward_length"),
                              .shared_hidden = metadata.integer("expert_shared_feed_forward_length", 0)});
  for (BlockSpec& block : spec.blocks)
    if (auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
      moe->router.order = layers::RouterSpec::Order::select_then_score;
  return spec;
}

NameTable moe_names() {
  NameTable table = hugging_face_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.moe.";
  const std::string moe = layer + "block_sparse_moe.", shared = layer + "shared_mlp.";
  table.names[path + "router"] = {{moe + "router.layer.weight"}, {moe + "router.weight"}};
  table.names[path + "experts.gate"] = {{moe + "input_linear.weight", Piece::first_half},
                                        {moe + "experts.gate_up_proj", Piece::first_half}};
  table.names[path + "experts.up"] = {{moe + "input_linear.weight", Piece::second_half},
                                      {moe + "experts.gate_up_proj", Piece::second_half}};
  table.names[path + "experts.down"] = {{moe + "output_linear.weight"}, {moe + "experts.down_proj"}};
  table.names[path + "shared.gate"] = {{shared + "input_linear.weight", Piece::first_half}};
  table.names[path + "shared.up"] = {{shared + "input_linear.weight", Piece::second_half}};
  table.names[path + "shared.down"] = {{shared + "output_linear.weight"}};
  return table;
}

void write_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  const auto& attention = std::get<layers::AttentionSpec>(spec.blocks.front().mixer);
  metadata.put("attention.scale", static_cast<double>(attention.scale));
}

}  // namespace granite

namespace {

ModelSpec dense_from_config(ConfigReader& config) {
  ModelSpec spec = granite::read_config(config);
  config.set_ffn_biases(spec);
  return spec;
}

ModelSpec moe_with(ConfigReader& config, int64_t shared_hidden) {
  ModelSpec spec = granite::read_config(config);
  layers::MoeSpec moe;
  moe.router.experts = config.experts(8);
  moe.router.experts_per_token = config.experts_per_token(2);
  moe.router.order = layers::RouterSpec::Order::select_then_score;
  moe.shared_hidden = shared_hidden;
  for (BlockSpec& block : spec.blocks) turn_into_experts(block, moe);
  spec.router_aux_loss = config.router_aux_loss(0.001);
  return spec;
}

ModelSpec moe_from_config(ConfigReader& config) { return moe_with(config, 0); }
ModelSpec moe_shared_from_config(ConfigReader& config) {
  return moe_with(config, config.keys.integer("shared_intermediate_size", 0));
}

void granite_to_config(ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  config.multipliers();
}

void dense_to_config(const ModelSpec&, ConfigWriter& config) {
  granite_to_config(config);
  config.ffn_bias();
}

void moe_to_config(const ModelSpec& spec, ConfigWriter& config) {
  granite_to_config(config);
  config.experts("num_local_experts");
  config.json["intermediate_size"] = first_moe(spec)->hidden;
  if (config.parent()) config.json.erase("head_dim");  // published configs leave it to these classes
}

void moe_shared_to_config(const ModelSpec& spec, ConfigWriter& config) {
  moe_to_config(spec, config);
  config.json["shared_intermediate_size"] = first_moe(spec)->shared_hidden;
}

std::string_view moe_type(bool shared) { return shared ? "granitemoeshared" : "granitemoe"; }

bool has_routed_experts_only(const ModelSpec& spec) {
  const layers::MoeSpec* moe = first_moe(spec);
  return moe && moe->shared_hidden == 0;
}
bool has_shared_expert(const ModelSpec& spec) {
  const layers::MoeSpec* moe = first_moe(spec);
  return moe && moe->shared_hidden > 0;
}

}  // namespace

const Family kGranite = {
    .model_type = "granite",
    .architecture = "granite",
    .class_name = "GraniteForCausalLM",
    .from_config = dense_from_config,
    .from_gguf = granite::read_gguf,
    .hugging_face_names = hugging_face_names,
    .to_config = dense_to_config,
    .to_gguf = granite::write_gguf,
    .moe_type = moe_type,
};
const Family kGraniteMoe = {
    .model_type = "granitemoe",
    .architecture = "granitemoe",
    .class_name = "GraniteMoeForCausalLM",
    .from_config = moe_from_config,
    .from_gguf = granite::read_gguf,
    .hugging_face_names = granite::moe_names,
    .to_config = moe_to_config,
    .to_gguf = granite::write_gguf,
    .says = has_routed_experts_only,
};
const Family kGraniteMoeShared = {
    .model_type = "granitemoeshared",
    .architecture = "granitemoe",
    .class_name = "GraniteMoeSharedForCausalLM",
    .from_config = moe_shared_from_config,
    .from_gguf = granite::read_gguf,
    .hugging_face_names = granite::moe_names,
    .to_config = moe_shared_to_config,
    .to_gguf = granite::write_gguf,
    .says = has_shared_expert,
};

}  // namespace coterie::families
