#include <algorithm>
#include <utility>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"

// LFM2 (arXiv:2511.23404): gated short convolutions in most layers and grouped-query attention with q/k norms in the
// others; as a mixture DeepSeek-V3's router without groups, after some dense layers.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

/// What is said of old models only, and of how they were made.
void mark_inert(ConfigReader& config) {
  config.keys.inert({"block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_swiglu",
                     "block_use_xavier_init", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "use_pos_enc",
                     "num_heads"});
}

ModelSpec decoder(ConfigReader& config, ConfigDefaults defaults) {
  defaults.kv_heads = 8;
  defaults.eps = 1e-5, defaults.eps_key = "norm_eps";
  defaults.theta = 1e6;
  defaults.tied = true;
  ModelSpec spec = config.decoder(defaults);
  spec.tied_embeddings = config.keys.boolean("tie_embedding", spec.tied_embeddings);
  layers::ShortConvSpec conv;
  conv.conv_width = config.keys.integer("conv_L_cache", 3);
  conv.bias = config.keys.boolean("conv_bias", false);
  std::vector<std::string> types = config.keys.strings("layer_types");
  const std::vector<int64_t> full = config.keys.integers("full_attn_idxs");
  if (types.empty() && full.empty()) types.assign(spec.blocks.size(), "full_attention");
  if (!types.empty() && types.size() != spec.blocks.size())
    fail(ErrorKind::bad_input, config.keys.where(), "layer_types has {} entries for {} layers", types.size(),
         spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    if (!types.empty() && types[i] != "conv" && types[i] != "full_attention")
      fail(ErrorKind::unsupported, config.keys.where(), "layer_types[{}] is \"{}\": expected conv or full_attention", i,
           types[i]);
    const bool attends = types.empty() ? std::find(full.begin(), full.end(), static_cast<int64_t>(i)) != full.end()
                                       : types[i] == "full_attention";
    std::get<layers::AttentionSpec>(spec.blocks[i].mixer).qk_norm = layers::AttentionSpec::QkNorm::per_head;
    if (!attends) spec.blocks[i].mixer = conv;
  }
  mark_inert(config);
  return spec;
}

ModelSpec dense_from_config(ConfigReader& config) {
  ModelSpec spec = decoder(
      config, {.vocabulary = 65536, .width = 2560, .layers = 32, .heads = 32, .hidden = 12288, .context = 128000});
  int64_t hidden = std::get<layers::DenseFfnSpec>(spec.blocks.front().ffn).hidden;
  if (config.keys.has("block_ff_dim")) hidden = config.keys.integer("block_ff_dim");
  const double factor = config.keys.number("block_ffn_dim_multiplier", 1.0);
  const int64_t multiple = config.keys.integer("block_multiple_of", 256);
  if (config.keys.boolean("block_auto_adjust_ff_dim", true)) {
    if (multiple < 1 || !(factor > 0) || factor > 1e6 || hidden > 1 << 28)
      fail(ErrorKind::bad_input, config.keys.where(), "block_multiple_of is {} and block_ffn_dim_multiplier {}",
           multiple, factor);
    hidden = static_cast<int64_t>(2 * static_cast<double>(hidden) / 3);
    hidden = static_cast<int64_t>(factor * static_cast<double>(hidden));
    hidden = (hidden + multiple - 1) / multiple * multiple;
  }
  for (BlockSpec& block : spec.blocks) std::get<layers::DenseFfnSpec>(block.ffn).hidden = hidden;
  return spec;
}

ModelSpec moe_from_config(ConfigReader& config) {
  ModelSpec spec = decoder(
      config, {.vocabulary = 65536, .width = 2048, .layers = 32, .heads = 32, .hidden = 7168, .context = 128000});
  layers::MoeSpec moe;
  moe.router.score = layers::RouterSpec::Score::sigmoid;
  moe.router.experts = config.experts(32);
  moe.router.experts_per_token = config.experts_per_token(4);
  moe.router.selection_bias = config.keys.boolean("use_expert_bias", true);
  moe.router.renormalise = config.keys.boolean("norm_topk_prob", true);
  moe.router.renormalise_epsilon = 1e-6;
  moe.router.scale = static_cast<float>(config.keys.number("routed_scaling_factor", 1.0));
  moe.hidden = config.keys.integer("moe_intermediate_size", 1792);
  const int64_t dense = config.keys.integer("num_dense_layers", 2);
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (static_cast<int64_t>(i) >= dense) spec.blocks[i].ffn = moe;
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  layers::ShortConvSpec conv;
  conv.conv_width = metadata.integer("shortconv.l_cache");
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
    if (attention.kv_heads == 0) block.mixer = conv;
  }
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  if (metadata.integer("expert_count", 0) == 0) return spec;
  bool biased = false;
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    biased = biased || metadata.has_tensor("blk." + std::to_string(i) + ".exp_probs_b.bias");
  metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length"),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = biased});
  for (BlockSpec& block : spec.blocks)
    if (auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) moe->router.renormalise_epsilon = 1e-6;
  return spec;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  uint64_t dense = 0;
  for (const BlockSpec& block : spec.blocks) {
    if (const auto* conv = std::get_if<layers::ShortConvSpec>(&block.mixer))
      metadata.put("shortconv.l_cache", static_cast<uint64_t>(conv->conv_width));
    if (std::holds_alternative<layers::DenseFfnSpec>(block.ffn)) ++dense;
  }
  if (dense < spec.blocks.size()) metadata.put("leading_dense_block_count", dense);
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.json.erase("rms_norm_eps");
  config.json["norm_eps"] = decimal(spec.final_norm.eps);
  config.json["block_auto_adjust_ff_dim"] = false;
  std::vector<std::string> types;
  size_t dense = 0;
  for (const BlockSpec& block : spec.blocks) {
    const auto* conv = std::get_if<layers::ShortConvSpec>(&block.mixer);
    types.emplace_back(conv ? "conv" : "full_attention");
    if (conv) config.json["conv_L_cache"] = conv->conv_width, config.json["conv_bias"] = conv->bias;
    if (std::holds_alternative<layers::DenseFfnSpec>(block.ffn)) ++dense;
  }
  config.json["layer_types"] = types;
  const layers::MoeSpec* const moe = first_moe(spec);
  if (!moe) return;
  config.json.erase("block_auto_adjust_ff_dim");
  config.experts("num_experts");
  config.json["num_dense_layers"] = dense;
  config.json["moe_intermediate_size"] = moe->hidden;
  config.json["use_expert_bias"] = moe->router.selection_bias;
  config.json["norm_topk_prob"] = moe->router.renormalise;
  config.json["routed_scaling_factor"] = decimal(moe->router.scale);
}

NameTable names() {
  NameTable table = hugging_face_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.", ffn = layer + "feed_forward.";
  table.names["final_norm"] = {{"model.embedding_norm.weight"}};
  table.names[path + "mixer_norm"] = {{layer + "operator_norm.weight"}};
  table.names[path + "ffn_norm"] = {{layer + "ffn_norm.weight"}};
  table.names[path + "attention.o"] = {{layer + "self_attn.out_proj.weight"}};
  for (const std::string part : {"q", "k"})
    table.names[path + "attention." + part + "_norm"] = {{layer + "self_attn." + part + "_layernorm.weight"}};
  for (const char* kind : {"weight", "bias"}) {
    const std::string suffix = kind == std::string("bias") ? ".bias" : "";
    table.names[path + "short_conv.in" + suffix] = {{layer + "conv.in_proj." + kind}};
    table.names[path + "short_conv.out" + suffix] = {{layer + "conv.out_proj." + kind}};
    table.names[path + "short_conv.conv" + suffix] = {{layer + "conv.conv." + kind}};
  }
  table.names[path + "short_conv.conv"].front().form = Form::filters;
  for (const auto& [ours, theirs] : {std::pair("gate", "w1"), std::pair("up", "w3"), std::pair("down", "w2")}) {
    table.names[path + "ffn." + ours] = {{ffn + theirs + ".weight"}};
    table.names[path + "moe.experts." + ours] = {{ffn + "experts.{expert}." + theirs + ".weight"},
                                                 {ffn + "experts." + theirs + ".weight"}};
  }
  // Stacked, as transformers 5 holds them.
  table.names[path + "moe.experts.gate"].push_back({ffn + "experts.gate_up_proj", Piece::first_half});
  table.names[path + "moe.experts.up"].push_back({ffn + "experts.gate_up_proj", Piece::second_half});
  table.names[path + "moe.experts.down"].push_back({ffn + "experts.down_proj"});
  table.names[path + "moe.router"] = {{ffn + "gate.weight"}};
  table.names[path + "moe.router.selection_bias"] = {{ffn + "expert_bias"}};
  return table;
}

// llama.cpp took the final norm for one of the embeddings.
void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  table.names["final_norm"] = {{"token_embd_norm.weight"}, {"output_norm.weight"}};
}

constexpr Shape kMoeShapes[] = {
    {"lfm2-8b-a1b", R"({"model_type": "lfm2_moe", "vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 7168,
      "moe_intermediate_size": 1792, "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 8,
      "num_experts": 32, "num_experts_per_tok": 4, "num_dense_layers": 2, "norm_topk_prob": true,
      "use_expert_bias": true, "routed_scaling_factor": 1.0, "conv_L_cache": 3, "conv_bias": false, "norm_eps": 1e-5,
      "max_position_embeddings": 128000, "rope_theta": 1e6, "tie_word_embeddings": true,
      "layer_types": ["conv", "conv", "full_attention", "conv", "conv", "conv", "full_attention", "conv", "conv",
                      "conv", "full_attention", "conv", "conv", "conv", "full_attention", "conv", "conv", "conv",
                      "full_attention", "conv", "conv", "full_attention", "conv", "conv"]})"},
};

}  // namespace

const Family kLfm2 = {
    .model_type = "lfm2",
    .architecture = "lfm2",
    .class_name = "Lfm2ForCausalLM",
    .from_config = dense_from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
};
const Family kLfm2Moe = {
    .model_type = "lfm2_moe",
    .architecture = "lfm2moe",
    .class_name = "Lfm2MoeForCausalLM",
    .from_config = moe_from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
    .shapes = kMoeShapes,
};

}  // namespace coterie::families
