#include <algorithm>

#include "base/error.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"
#include "families/known/kda.h"

// Ling 3 (inclusionAI 2026): Kimi Delta Attention with a bounded decay and full projections, and latent attention with
// a gate for each head at the end of each group of layers; DeepSeek-V3's mixture.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

/// The same model_type is Ling 2.6's, which has lightning attention.
void require_kda(ConfigReader& config) {
  for (const char* key : {"kda_safe_gate", "kda_lower_bound", "no_kda_lora"})
    if (config.keys.has(key)) return;
  for (const std::string& name : config.keys.strings("architectures"))
    if (name.starts_with("BailingMoeV3") || name.starts_with("BailingHybrid")) return;
  fail(ErrorKind::unsupported, config.keys.where(),
       "model_type bailing_hybrid without kda_lower_bound: Ling 2.6, whose lightning attention is not supported");
}

void refuse_limits(ConfigReader& config) {
  for (const char* key : {"expert_swiglu_limit_list", "share_expert_swiglu_limit_list"}) {
    const base::Json* list = config.keys.value(key);
    if (!list || list->is_null()) continue;
    for (const base::Json& value : *list)
      if (!value.is_null() && value != 0)
        fail(ErrorKind::unsupported, config.keys.where(), "{} holds {}: limits of SwiGLU are not supported here", key,
             value.dump());
  }
}

ModelSpec from_config(ConfigReader& config) {
  require_kda(config);
  ModelSpec spec = kda::decoder(config, {.vocabulary = 157184,
                                         .width = 2560,
                                         .layers = 42,
                                         .heads = 32,
                                         .kv_heads = 32,
                                         .head_dim = 128,
                                         .hidden = 6144,
                                         .context = 262144,
                                         .theta = 6e6});
  if (!config.keys.boolean("no_kda_lora", true))
    fail(ErrorKind::unsupported, config.keys.where(),
         "no_kda_lora is false: projections of low rank are not supported");
  if (const std::string gate = config.keys.string("gated_attention_proj_granularity_type", "head_wise");
      gate != "head_wise")
    fail(ErrorKind::unsupported, config.keys.where(),
         "gated_attention_proj_granularity_type is \"{}\": expected \"head_wise\"", gate);
  refuse_limits(config);
  layers::DeltaRuleSpec delta;
  const auto& plain = std::get<layers::AttentionSpec>(spec.blocks.front().mixer);
  delta.key_heads = delta.value_heads = config.keys.integer("linear_num_heads", plain.heads);
  delta.key_dim = delta.value_dim = config.keys.integer("linear_head_dim", plain.head_dim);
  delta.conv_width = config.keys.integer("linear_conv_kernel_dim", config.keys.integer("short_conv_kernel_size", 4));
  delta.activation = std::get<layers::DenseFfnSpec>(spec.blocks.front().ffn).activation;
  delta.fused = false, delta.decay_by_key = true;
  delta.gate = ops::Activation::sigmoid;
  delta.norm_eps = spec.final_norm.eps;
  const double floor = config.keys.number("kda_lower_bound", -5.0);
  if (config.keys.boolean("kda_safe_gate", true)) {
    if (!(floor < 0)) fail(ErrorKind::bad_input, config.keys.where(), "kda_lower_bound is {}: expected below 0", floor);
    delta.decay_floor = static_cast<float>(floor);
  }
  layers::LatentAttentionSpec mla = kda::latent(config, spec);
  mla.gate.shape = layers::OutputGate::Shape::per_head;
  const int64_t group = config.keys.integer("layer_group_size", 6);
  if (group < 1) fail(ErrorKind::bad_input, config.keys.where(), "layer_group_size is {}: expected at least 1", group);
  kda::set_mixers(config, spec, delta, mla, [&](int64_t layer) { return (layer + 1) % group == 0; });
  kda::set_experts(config, spec,
                   {.experts = 512, .hidden = 768, .groups = 8, .groups_kept = 4, .dense_layers = 2, .scale = 2.5});
  for (const BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
      if (const int64_t shared = config.keys.integer("moe_shared_expert_intermediate_size", moe->shared_hidden);
          shared != moe->shared_hidden && moe->hidden > 0 &&
          shared * (moe->shared_hidden / moe->hidden) != moe->shared_hidden)
        fail(ErrorKind::unsupported, config.keys.where(),
             "moe_shared_expert_intermediate_size is {}: expected as wide as the experts", shared);
  deepseek::set_prediction_layers(config, spec, 1);
  config.keys.inert({"mtp_loss_scaling_factor", "partial_rotary_factor"});
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  layers::DeltaRuleSpec delta;
  delta.fused = false, delta.decay_by_key = true;
  delta.gate = ops::Activation::sigmoid;
  if (!metadata.boolean("kda.safe_gate", true))
    fail(ErrorKind::unsupported, "kda.safe_gate", "false is not supported for the architecture");
  delta.decay_floor = static_cast<float>(metadata.number("kda.gate_lower_bound"));
  metadata.inert({"rope.dimension_sections"});  // of positions in images
  ModelSpec spec = kda::from_gguf(metadata, delta, true, true);
  deepseek::drop_prediction_layers(metadata, spec);
  return spec;
}

NameTable names() {
  NameTable table = deepseek::expert_names();
  const std::string layer = "model.layers.{layer}.";
  table.names["embedding"] = {{"model.word_embeddings.weight"}};
  table.names["blocks.{layer}.moe.router.selection_bias"] = {{layer + "mlp.gate.expert_bias"}};
  kda::add_names(table, layer + "attention.", "dense");
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  kda::to_config(spec, config);
  const layers::RouterSpec& router = first_moe(spec)->router;
  config.json["num_experts_per_tok"] = router.experts_per_token;
  config.json["n_group"] = router.groups, config.json["norm_topk_prob"] = router.renormalise;
  config.json["no_kda_lora"] = true, config.json["num_nextn_predict_layers"] = 0;
  for (const BlockSpec& block : spec.blocks)
    if (const auto* delta = std::get_if<layers::DeltaRuleSpec>(&block.mixer)) {
      config.json["head_dim"] = delta->key_dim;
      config.json["kda_safe_gate"] = delta->decay_floor < 0;
      config.json["kda_lower_bound"] = decimal(delta->decay_floor);
    }
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  kda::to_gguf(spec, metadata);
  for (const BlockSpec& block : spec.blocks)
    if (const auto* delta = std::get_if<layers::DeltaRuleSpec>(&block.mixer)) {
      metadata.put("kda.safe_gate", delta->decay_floor < 0);
      metadata.put("kda.gate_lower_bound", static_cast<double>(delta->decay_floor));
    }
}

void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  const std::string path = "blocks.{layer}.delta.", layer = "blk.{layer}.";
  for (const std::string part : {"q", "k", "v"}) table.names[path + part + "_conv"].front().form = Form::loose_filters;
  NameInFile& a = table.names[path + "a_log"].front();
  a.form = Form::loose_column, a.negated = true;
  table.names[path + "out"] = {{layer + "attn_output.weight"}};
  table.names[path + "decay"] = {{layer + "ssm_f_a.weight"}};
  table.names[path + "gate"] = {{layer + "ssm_g_a.weight"}};
}

}  // namespace

const Family kBailingHybrid = {
    .model_type = "bailing_hybrid",
    .architecture = "bailingmoe3",
    .class_name = "BailingHybridForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
};

}  // namespace coterie::families
