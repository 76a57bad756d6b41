#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// Hy3 (Tencent 2026): Qwen3's attention; experts chosen by sigmoids with a bias of selection, their weights over the
// sum and times a factor; a shared expert; dense first layers.
namespace coterie::families {

namespace {

using layers::AttentionSpec;
using layers::MoeSpec;

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 120832,
                                   .width = 4096,
                                   .layers = 80,
                                   .heads = 64,
                                   .kv_heads = 8,
                                   .head_dim = 128,
                                   .hidden = 13312,
                                   .context = 131072,
                                   .eps = 1e-5,
                                   .theta = 11'158'840});
  config.set_attention_biases(spec);
  config.set_ffn_biases(spec);
  MoeSpec moe;
  moe.router.experts = config.experts(192);
  moe.router.experts_per_token = config.experts_per_token(8);
  moe.router.score = layers::RouterSpec::Score::sigmoid;
  moe.router.selection_bias = moe.router.renormalise = true;
  moe.router.scale = static_cast<float>(config.keys.number("router_scaling_factor", 2.826));
  moe.hidden = config.keys.integer("moe_intermediate_size", 1536);
  const int64_t shared = config.keys.integer("num_shared_experts", 1);
  if (shared < 1 || shared > 1 << 20)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "num_shared_experts is {}", shared);
  moe.shared_hidden = shared * moe.hidden;
  const std::vector<bool> sparse = config.sparse_layers(spec, [](int64_t layer) { return layer > 0; });
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    std::get<AttentionSpec>(spec.blocks[i].mixer).qk_norm = AttentionSpec::QkNorm::per_head;
    if (!sparse[i]) continue;
    const auto& dense = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn);
    moe.activation = dense.activation, moe.shared_bias = dense.bias;
    spec.blocks[i].ffn = moe;
  }
  deepseek::set_prediction_layers(config, spec, 1);
  config.expect("route_norm", true);
  config.expect("qk_norm", true);
  config.expect("moe_router_use_sigmoid", true);
  config.expect("moe_router_enable_expert_bias", true);
  config.expect("first_k_dense_replace", std::find(sparse.begin(), sparse.end(), true) - sparse.begin());
  config.expect("expert_hidden_dim", moe.hidden);
  // Roundings of lower precisions.
  config.keys.inert({"enable_moe_fp32_combine", "enable_lm_head_fp32", "enable_attention_fp32_softmax"});
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  for (BlockSpec& block : spec.blocks) std::get<AttentionSpec>(block.mixer).qk_norm = AttentionSpec::QkNorm::per_head;
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  const int64_t hidden = metadata.integer("expert_feed_forward_length");
  const int64_t shared = hidden * metadata.integer("expert_shared_count", 1);
  metadata.set_experts(spec, {.hidden = hidden,
                              .shared_hidden = metadata.integer("expert_shared_feed_forward_length", shared),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = deepseek::has_selection_bias(metadata, spec)});
  deepseek::drop_prediction_layers(metadata, spec);
  return spec;
}

NameTable names() {
  NameTable table = hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj");
  const std::string mlp = "model.layers.{layer}.mlp.", path = "blocks.{layer}.moe.";
  table.names[path + "router"] = {{mlp + "router.gate.weight"}, {mlp + "gate.weight"}};
  table.names[path + "router.selection_bias"] = {{mlp + "expert_bias"}, {mlp + "e_score_correction_bias"}};
  for (const std::string part : {"gate", "up", "down"})
    for (const auto& [ours, theirs] : {std::pair("", ".weight"), std::pair(".bias", ".bias")})
      table.names[path + "shared." + part + ours] = {{mlp + "shared_mlp." + part + "_proj" + theirs},
                                                     {mlp + "shared_experts." + part + "_proj" + theirs}};
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  config.experts("num_experts");
  const MoeSpec& moe = *first_moe(spec);
  config.json["mlp_bias"] = moe.shared_bias;
  config.json["moe_intermediate_size"] = moe.hidden;
  config.json["num_shared_experts"] = moe.shared_hidden / std::max<int64_t>(moe.hidden, 1);
  config.json["router_scaling_factor"] = decimal(moe.router.scale);
  config.expert_layers();
  config.json["num_nextn_predict_layers"] = 0;
}

// llama.cpp's name for this architecture's bias of selection has no suffix.
void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  std::vector<NameInFile>& found = table.names["blocks.{layer}.moe.router.selection_bias"];
  found.insert(found.begin(), {"blk.{layer}.exp_probs_b"});
}

}  // namespace

const Family kHyV3 = {
    .model_type = "hy_v3",
    .architecture = "hy_v3",
    .class_name = "HYV3ForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .adjust_gguf_names = adjust_gguf_names,
    .says = deepseek::has_experts,
};

}  // namespace coterie::families
