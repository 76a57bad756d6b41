#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// ERNIE 4.5 (Baidu 2025): interleaved rotary positions; experts chosen by softmax scores plus a bias of selection,
// their weights over the sum or a floor of it; a shared expert; which layers have experts by first, last and interval.
namespace coterie::families {

namespace {

using layers::AttentionSpec;
using layers::MoeSpec;

constexpr double kFloor = 1e-12;

layers::RouterSpec router_of(int64_t experts, int64_t chosen, double floor) {
  layers::RouterSpec router;
  router.experts = experts, router.experts_per_token = chosen;
  router.selection_bias = true;
  router.renormalise = router.renormalise_floor = true;
  router.renormalise_epsilon = floor;
  return router;
}

void set_biases(ModelSpec& spec) {
  spec.head_bias = true;
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = attention.o_bias = true;
    if (auto* moe = std::get_if<MoeSpec>(&block.ffn))
      moe->shared_bias = true;
    else
      std::get<layers::DenseFfnSpec>(block.ffn).bias = true;
  }
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 103424,
                                   .width = 2560,
                                   .layers = 28,
                                   .heads = 20,
                                   .kv_heads = 4,
                                   .hidden = 12288,
                                   .context = 131072,
                                   .eps = 1e-5,
                                   .theta = 500000,
                                   .tied = true});
  MoeSpec moe;
  moe.router = router_of(config.experts(64), config.experts_per_token(6), config.keys.number("moe_norm_min", kFloor));
  moe.hidden = config.keys.integer("moe_intermediate_size", 1536);
  moe.shared_hidden = moe.hidden * config.keys.integer("moe_num_shared_experts", 2);
  const int64_t layers = std::ssize(spec.blocks), first = config.keys.integer("moe_layer_start_index", 1);
  const int64_t end = config.keys.integer("moe_layer_end_index", -1), last = end == -1 ? layers - 1 : end;
  const int64_t interval = config.keys.integer("moe_layer_interval", 1);
  if (interval < 1 || moe.shared_hidden < 0)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "moe_layer_interval {} and a shared expert of width {}",
               interval, moe.shared_hidden);
  for (int64_t i = 0; i < layers; ++i) {
    BlockSpec& block = spec.blocks[static_cast<size_t>(i)];
    std::get<AttentionSpec>(block.mixer).rope->style = ops::RopeTable::Style::interleaved;
    if ((i + 1) % interval != 0 || i < first || i > last) continue;
    moe.activation = std::get<layers::DenseFfnSpec>(block.ffn).activation;
    block.ffn = moe;
  }
  if (config.keys.boolean("use_bias", false)) set_biases(spec);
  spec.router_aux_loss = config.router_aux_loss(0.001);
  config.expect("moe_gate", "topk");
  config.expect("moe_use_aux_free", true);
  // Keys of training, and of the prediction layers that the reference leaves out.
  config.keys.inert({"moe_capacity", "num_nextn_predict_layers", "moe_aux_loss_lambda", "moe_orthogonal_loss_lambda"});
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::interleaved);
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  metadata.integer("interleave_moe_layer_step", 1);
  const int64_t hidden = metadata.integer("expert_feed_forward_length");
  metadata.integer("expert_shared_feed_forward_length", 0);  // the converter computes it from other sizes
  metadata.set_experts(spec, {.hidden = hidden,
                              .shared_hidden = hidden * metadata.integer("expert_shared_count", 0),
                              .renormalise = true,
                              .selection_bias = deepseek::has_selection_bias(metadata, spec)});
  for (BlockSpec& block : spec.blocks)
    if (auto* moe = std::get_if<MoeSpec>(&block.ffn))
      moe->router.renormalise_floor = true, moe->router.renormalise_epsilon = kFloor;
  return spec;
}

NameTable names() {
  NameTable table = deepseek::expert_names();
  const std::string mlp = "model.layers.{layer}.mlp.", path = "blocks.{layer}.moe.";
  table.names[path + "router.selection_bias"] = {
      {mlp + "moe_statics.e_score_correction_bias", Piece::whole, false, Form::in_parts},
      {mlp + "gate.moe_statics.e_score_correction_bias", Piece::whole, false, Form::in_parts}};
  for (const std::string part : {"gate", "up", "down"})
    table.names[path + "shared." + part + ".bias"] = {{mlp + "shared_experts." + part + "_proj.bias"}};
  table.inert.push_back("model.mtp_*");
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  const MoeSpec& moe = *first_moe(spec);
  config.json["moe_num_experts"] = moe.router.experts, config.json["moe_k"] = moe.router.experts_per_token;
  config.json["moe_intermediate_size"] = moe.hidden;
  config.json["moe_num_shared_experts"] = moe.shared_hidden / std::max<int64_t>(moe.hidden, 1);
  config.json["moe_norm_min"] = moe.router.renormalise_epsilon;
  config.json["use_bias"] = config.attention().q_bias;
  std::vector<int64_t> sparse;
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (std::holds_alternative<MoeSpec>(spec.blocks[i].ffn)) sparse.push_back(static_cast<int64_t>(i));
  config.json["moe_layer_start_index"] = sparse.front(), config.json["moe_layer_end_index"] = sparse.back();
  config.json["moe_layer_interval"] = sparse.size() > 1 ? sparse[1] - sparse[0] : 1;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  const MoeSpec* moe = first_moe(spec);
  if (!moe) return;
  uint64_t first = 0;
  while (!std::holds_alternative<MoeSpec>(spec.blocks[first].ffn)) ++first;
  uint64_t second = first + 1;
  while (second < spec.blocks.size() && !std::holds_alternative<MoeSpec>(spec.blocks[second].ffn)) ++second;
  metadata.put("leading_dense_block_count", first);
  metadata.put("interleave_moe_layer_step", second < spec.blocks.size() ? second - first : uint64_t{1});
  metadata.put("expert_shared_count", static_cast<uint64_t>(moe->shared_hidden / std::max<int64_t>(moe->hidden, 1)));
}

// llama.cpp's converter leaves the bias of selection as the checkpoint has it, [1, E].
void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource* source) {
  if (!source) return;
  for (const checkpoint::TensorInfo& tensor : source->tensors())
    if (tensor.name.ends_with(".exp_probs_b.bias") && tensor.shape.size() == 2)
      for (NameInFile& name : table.names["blocks.{layer}.moe.router.selection_bias"]) name.form = Form::in_parts;
}

}  // namespace

const Family kErnie45Moe = {
    .model_type = "ernie4_5_moe",
    .architecture = "ernie4_5-moe",
    .class_name = "Ernie4_5_MoeForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
    .says = deepseek::has_experts,
};

}  // namespace coterie::families
