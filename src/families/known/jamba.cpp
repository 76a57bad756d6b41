#include "base/error.h"
#include "families/known/families.h"
#include "families/known/ssm.h"

// Jamba (Lieber et al. 2024, arXiv:2403.19887): Mamba blocks, one block of attention without positions in each period,
// and a MoE in place of every second FFN. Mamba's dt, B and C are normed.
namespace coterie::families {

namespace {

constexpr ssm::MambaKeys kKeys = {.states = "mamba_d_state",
                                  .conv_width = "mamba_d_conv",
                                  .expand = "mamba_expand",
                                  .conv_bias = "mamba_conv_bias",
                                  .projection_bias = "mamba_proj_bias",
                                  .activation = "hidden_act",
                                  .rank = "mamba_dt_rank"};

struct Every {
  int64_t period, offset;
  bool has(size_t layer) const { return static_cast<int64_t>(layer) % period == offset; }
};
Every every(ConfigReader& config, const std::string& what, int64_t period, int64_t offset) {
  const Every result{config.keys.integer(what + "_period", period), config.keys.integer(what + "_offset", offset)};
  if (result.period < 1 || result.offset < 0 || result.offset >= result.period)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "{}_offset is {} of a period of {}", what,
               result.offset, result.period);
  return result;
}

ModelSpec jamba_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 65536,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .kv_heads = 8,
                                   .hidden = 14336,
                                   .context = 262144,
                                   .rope_by_layer = true});  // no layer has positions
  config.keys.inert({"rope_theta", "rope_scaling", "rope_parameters"});
  layers::MambaSpec mamba = ssm::mamba(config, kKeys, spec.width);
  mamba.inner_norm = layers::MambaSpec::InnerNorm::weighted;
  mamba.inner_norm_eps = spec.final_norm.eps;
  if (!config.keys.boolean("mamba_inner_layernorms", true))
    base::fail(base::ErrorKind::unsupported, config.keys.where(),
               "mamba_inner_layernorms is false: expected true, as the reference has it");
  layers::MoeSpec moe;
  moe.router.experts = config.experts(16);
  moe.router.experts_per_token = config.experts_per_token(2);
  const Every attention = every(config, "attn_layer", 8, 4), experts = every(config, "expert_layer", 2, 1);
  const std::vector<std::string> kinds = ssm::layer_kinds(config, spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    BlockSpec& block = spec.blocks[i];
    if (!kinds.empty() && kinds[i] != (attention.has(i) ? "full_attention" : "linear_attention"))
      base::fail(base::ErrorKind::bad_input, config.keys.where(), "layer {} is {}, but not by attn_layer_period", i,
                 kinds[i]);
    if (attention.has(i))
      std::get<layers::AttentionSpec>(block.mixer).rope.reset();
    else
      block.mixer = mamba;
    if (!experts.has(i) || moe.router.experts < 2) continue;
    turn_into_experts(block, moe);
  }
  spec.router_aux_loss = config.router_aux_loss(0.001);
  ssm::mark_inert(config);
  return spec;
}

ModelSpec jamba_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  layers::MambaSpec mamba = ssm::mamba(metadata);
  mamba.inner_norm = layers::MambaSpec::InnerNorm::weighted;
  mamba.inner_norm_eps = spec.final_norm.eps;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto* attention = std::get_if<layers::AttentionSpec>(&spec.blocks[i].mixer);
    if (attention && attention->kv_heads > 0)
      attention->rope.reset();
    else
      spec.blocks[i].mixer = mamba;
  }
  if (metadata.integer("expert_count", 0) > 0)
    metadata.set_experts(spec, {.hidden = metadata.integer("feed_forward_length"), .renormalise = false});
  return spec;
}

NameTable jamba_names() {
  NameTable table = hugging_face_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  table.names["final_norm"] = {{"model.final_layernorm.weight"}};
  table.names[path + "ffn_norm"] = {{layer + "pre_ff_layernorm.weight"}};
  table.names[path + "moe.router"] = {{layer + "feed_forward.router.weight"}};
  for (const std::string part : {"gate", "up", "down"}) {
    table.names[path + "ffn." + part] = {{layer + "feed_forward." + part + "_proj.weight"}};
    table.names[path + "moe.experts." + part] = {{layer + "feed_forward.experts.{expert}." + part + "_proj.weight"}};
  }
  // Stacked, as transformers 5 holds them.
  const std::string stacked = layer + "feed_forward.experts.";
  table.names[path + "moe.experts.gate"].push_back({stacked + "gate_up_proj", Piece::first_half});
  table.names[path + "moe.experts.up"].push_back({stacked + "gate_up_proj", Piece::second_half});
  table.names[path + "moe.experts.down"].push_back({stacked + "down_proj"});
  ssm::add_mamba_names(table, {layer + "mamba."});
  return table;
}

}  // namespace

const Family kJamba = {
    .model_type = "jamba",
    .architecture = "jamba",
    .class_name = "JambaForCausalLM",
    .from_config = jamba_from_config,
    .from_gguf = jamba_from_gguf,
    .hugging_face_names = jamba_names,
};

}  // namespace coterie::families
