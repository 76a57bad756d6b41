#include <algorithm>

#include "base/error.h"
#include "families/known/families.h"
#include "families/known/kda.h"

// Kimi Linear (arXiv:2510.26692): three layers of Kimi Delta Attention for each one of latent attention, which has no
// positions; DeepSeek-V3's mixture.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

/// linear_attn_config of published checkpoints, whose lists count layers from 1.
struct Published {
  int64_t head_dim, heads, conv_width;
  std::vector<int64_t> full, linear;
};
Published published(ConfigReader& config) {
  Published result{config.keys.integer("linear_head_dim", 128),
                   config.keys.integer("linear_num_heads", 32),
                   config.keys.integer("linear_conv_kernel_dim", 4),
                   {},
                   {}};
  const base::Json* object = config.keys.object("linear_attn_config");
  if (!object) return result;
  base::JsonReader inner(*object, config.keys.where() + ": linear_attn_config");
  result.head_dim = inner.integer("head_dim", result.head_dim);
  result.heads = inner.integer("num_heads", result.heads);
  result.conv_width = inner.integer("short_conv_kernel_size", result.conv_width);
  result.full = inner.integers("full_attn_layers"), result.linear = inner.integers("kda_layers");
  for (const std::string& key : inner.unread())
    fail(ErrorKind::unsupported, inner.where(), "key \"{}\" is not known", key);
  return result;
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = kda::decoder(config, {.vocabulary = 163840,
                                         .width = 2304,
                                         .layers = 27,
                                         .heads = 32,
                                         .kv_heads = 32,
                                         .head_dim = config.keys.integer("qk_rope_head_dim", 64),
                                         .hidden = 9216,
                                         .context = 1048576,
                                         .eps = 1e-5,
                                         .rope_by_layer = true});  // no layer has positions
  config.keys.inert({"rope_theta", "rope_scaling", "rope_parameters"});
  if (!config.keys.boolean("mla_use_nope", true))
    fail(ErrorKind::unsupported, config.keys.where(), "mla_use_nope is false: this attention has no positions");
  const Published linear = published(config);
  layers::DeltaRuleSpec delta;
  delta.key_heads = delta.value_heads = linear.heads;
  delta.key_dim = delta.value_dim = delta.decay_rank = delta.gate_rank = linear.head_dim;
  delta.conv_width = linear.conv_width;
  delta.activation = std::get<layers::DenseFfnSpec>(spec.blocks.front().ffn).activation;
  delta.fused = false, delta.decay_by_key = true;
  delta.gate = ops::Activation::sigmoid;
  delta.norm_eps = spec.final_norm.eps;
  const auto layers = static_cast<int64_t>(spec.blocks.size());
  const bool listed = !linear.full.empty() || !linear.linear.empty();
  if (listed && static_cast<int64_t>(linear.full.size() + linear.linear.size()) != layers)
    fail(ErrorKind::bad_input, config.keys.where(),
         "linear_attn_config: full_attn_layers and kda_layers name {} layers of {}",
         linear.full.size() + linear.linear.size(), layers);
  kda::set_mixers(config, spec, delta, kda::latent(config, spec), [&](int64_t layer) {
    if (!listed) return layer > 0 && layer % 4 == 0;
    return std::find(linear.full.begin(), linear.full.end(), layer + 1) != linear.full.end();
  });
  kda::set_experts(config, spec,
                   {.experts = 256, .hidden = 1024, .groups = 1, .groups_kept = 1, .dense_layers = 1, .scale = 2.446});
  config.keys.integer("num_nextn_predict_layers", 0);
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  layers::DeltaRuleSpec delta;
  delta.fused = false, delta.decay_by_key = true;
  delta.decay_rank = delta.gate_rank = 1;  // as wide as a head
  delta.gate = ops::Activation::sigmoid;
  return kda::from_gguf(metadata, delta, false, false);
}

NameTable names() {
  NameTable table = hugging_face_moe_names("block_sparse_moe", "w1", "w3", "w2");
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.", moe = layer + "block_sparse_moe.";
  for (const std::string part : {"gate", "up", "down"}) {
    // transformers 5 saves a dense layer under the name of the mixtures.
    table.names[path + "ffn." + part].push_back({moe + part + "_proj.weight"});
    table.names[path + "moe.shared." + part] = {{moe + "shared_experts." + part + "_proj.weight"}};
  }
  table.names[path + "moe.router.selection_bias"] = {{moe + "gate.e_score_correction_bias"}};
  kda::add_names(table, layer + "self_attn.", "o_proj");
  table.names[path + "delta.a_log"] = {{layer + "self_attn.A_log", Piece::whole, false, Form::loose_heads}};
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  kda::to_config(spec, config);
  const layers::RouterSpec& router = first_moe(spec)->router;
  config.json["num_experts_per_token"] = router.experts_per_token;
  config.json["num_expert_group"] = router.groups, config.json["moe_renormalize"] = router.renormalise;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) { kda::to_gguf(spec, metadata); }

void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  const std::string path = "blocks.{layer}.delta.", layer = "blk.{layer}.";
  for (const std::string part : {"q", "k", "v"}) table.names[path + part + "_conv"].front().form = Form::loose_filters;
  table.names[path + "a_log"].front().form = Form::loose_column;
  table.names[path + "out"] = {{layer + "attn_output.weight"}};
}

}  // namespace

const Family kKimiLinear = {
    .model_type = "kimi_linear",
    .architecture = "kimi-linear",
    .class_name = "KimiLinearForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
};

}  // namespace coterie::families
