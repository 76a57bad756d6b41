#include <algorithm>
#include <utility>

#include "base/error.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"
#include "families/known/ssm.h"

// Nemotron-H (NVIDIA 2025, arXiv:2504.03624) and Nemotron 3: blocks of one sublayer each, Mamba-2, attention without
// positions, a dense FFN or a mixture; FFNs without gates and with a squared ReLU. DeepSeek-V3's router; the experts of
// the larger ones read and write a narrower latent.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

/// A lower limit of Mamba's time step, which the reference takes from where others say how weights are drawn.
constexpr double kTimeStepMin = 0.001;

/// linear_attention, full_attention, moe or mlp of each layer: a list under one of several names, or letters.
std::vector<std::string> kinds_of(ConfigReader& config) {
  std::vector<std::string> kinds;
  for (const std::string_view key : {"layers_block_type", "layer_types"})
    if (std::vector<std::string> found = config.keys.strings(key); kinds.empty()) kinds = std::move(found);
  const std::string letters = config.keys.string("hybrid_override_pattern", "");
  if (kinds.empty())
    for (const char letter : letters) kinds.emplace_back(1, letter);
  if (kinds.empty()) kinds = {"linear_attention", "moe", "full_attention", "mlp"};
  for (std::string& kind : kinds) {
    if (kind == "M" || kind == "mamba" || kind == "mamba2") kind = "linear_attention";
    if (kind == "*" || kind == "attention") kind = "full_attention";
    if (kind == "E") kind = "moe";
    if (kind == "-") kind = "mlp";
    if (kind != "linear_attention" && kind != "full_attention" && kind != "moe" && kind != "mlp")
      fail(ErrorKind::unsupported, config.keys.where(),
           "a layer is \"{}\": expected linear_attention, full_attention, moe or mlp", kind);
  }
  return kinds;
}

layers::Mamba2Spec mamba_of(ConfigReader& config, float eps) {
  layers::Mamba2Spec mamba;
  mamba.heads = config.keys.integer("mamba_num_heads", 128);
  mamba.head_dim = config.keys.integer("mamba_head_dim", 64);
  mamba.states = config.keys.integer("ssm_state_size", 128);
  mamba.groups = config.integer_of({"mamba_n_groups", "n_groups"}, 8);
  mamba.conv_width = config.integer_of({"mamba_d_conv", "conv_kernel"}, 4);
  mamba.conv_bias = config.keys.boolean("mamba_conv_bias", config.keys.boolean("use_conv_bias", true));
  mamba.projection_bias = config.keys.boolean("use_bias", false);
  mamba.activation = config.activation("mamba_hidden_act");
  mamba.dt_min =
      static_cast<float>(config.keys.number("mamba_dt_min", config.keys.number("time_step_min", kTimeStepMin)));
  mamba.norm_eps = eps;
  // Said, and used by the reference for how weights are drawn, or not at all.
  config.keys.inert({"expand", "mamba_expand", "mamba_dt_max", "mamba_dt_limit", "mamba_dt_init_floor",
                     "time_step_limit", "mamba_proj_bias", "mamba_ssm_cache_dtype", "attention_bias",
                     "sliding_window"});
  return mamba;
}

layers::AttentionSpec attention_of(ConfigReader& config) {
  layers::AttentionSpec attention;
  attention.heads = config.keys.integer("num_attention_heads", 32);
  attention.kv_heads =
      config.is_null("num_key_value_heads") ? attention.heads : config.keys.integer("num_key_value_heads", 8);
  config.keys.inert({"num_key_value_heads"});
  attention.head_dim = attention.value_dim = config.integer_of({"head_dim", "attention_head_dim"}, 128);
  if (attention.head_dim < 1) fail(ErrorKind::bad_input, config.keys.where(), "head_dim is {}", attention.head_dim);
  attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  return attention;
}

layers::MoeSpec experts_of(ConfigReader& config, ops::Activation activation) {
  layers::MoeSpec moe;
  moe.router = deepseek::sigmoid_router(
      config, {.experts = 8, .experts_per_token = 2, .groups = 1, .groups_kept = 1, .scale = 1});
  moe.hidden = config.keys.integer("moe_intermediate_size", 7688);
  moe.shared_hidden = config.keys.integer("moe_shared_expert_intermediate_size", 7688);
  moe.latent = config.is_null("moe_latent_size") ? 0 : config.keys.integer("moe_latent_size", 0);
  moe.activation = activation, moe.gated = false;
  config.keys.inert({"moe_latent_size", "moe_shared_expert_overlap", "n_shared_experts"});
  return moe;
}

ModelSpec from_config(ConfigReader& config) {
  const std::vector<std::string> kinds = kinds_of(config);
  const auto count = static_cast<int64_t>(kinds.size());
  ModelSpec spec = ssm::stack(config, {.vocabulary = 131072, .width = 4096, .layers = count});
  if (std::ssize(spec.blocks) != count)
    config.warnings.push_back(
        fmt::format("{}: num_hidden_layers is {}, but {} layers are listed; these count, as in "
                    "the reference",
                    config.keys.where(), spec.blocks.size(), count));
  const ops::Activation activation = config.activation("mlp_hidden_act", "relu2");
  const layers::Mamba2Spec mamba = mamba_of(config, spec.final_norm.eps);
  const layers::AttentionSpec attention = attention_of(config);
  const layers::DenseFfnSpec dense{config.keys.integer("intermediate_size", 21504), activation, false,
                                   config.keys.boolean("mlp_bias", false)};
  layers::MoeSpec moe = experts_of(config, activation);
  moe.shared_bias = dense.bias;
  spec.blocks.assign(kinds.size(), BlockSpec{});
  for (size_t i = 0; i < kinds.size(); ++i) {
    BlockSpec& block = spec.blocks[i];
    block.ffn = layers::NoFfnSpec{}, block.mixer = layers::NoMixerSpec{};
    const bool mixes = kinds[i] == "linear_attention" || kinds[i] == "full_attention";
    (mixes ? block.mixer_norm : block.ffn_norm) = spec.final_norm;
    if (kinds[i] == "linear_attention") block.mixer = mamba;
    if (kinds[i] == "full_attention") block.mixer = attention;
    if (kinds[i] == "mlp") block.ffn = dense;
    if (kinds[i] != "moe") continue;
    block.ffn = moe;
  }
  ssm::mark_inert(config);
  config.expect("norm_eps", config.keys.number("layer_norm_epsilon", 1e-5));  // published beside it
  config.keys.inert({"num_nextn_predict_layers", "mtp_layers_block_type", "mtp_hybrid_override_pattern"});
  config.keys.inert({"rope_theta", "partial_rotary_factor"});  // published, and no attention here has positions
  return spec;
}

/// Blocks with neither key-value heads nor an FFN are Mamba-2.
ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  layers::Mamba2Spec mamba = ssm::mamba2(metadata);
  mamba.norm_eps = spec.final_norm.eps, mamba.dt_min = static_cast<float>(kTimeStepMin);
  metadata.inert({"attention.layer_norm_epsilon"});  // of the head for drafting
  const int64_t latent = metadata.integer("moe_latent_size", 0);
  std::vector<BlockSpec> blocks = spec.blocks;
  for (size_t i = 0; i < blocks.size(); ++i) {
    BlockSpec& block = blocks[i];
    const std::string layer = "blk." + std::to_string(i) + ".";
    auto attention = std::get<layers::AttentionSpec>(block.mixer);
    auto dense = std::get<layers::DenseFfnSpec>(block.ffn);
    dense.gated = false, dense.activation = ops::Activation::relu2;
    attention.rope.reset();
    block.ffn = layers::NoFfnSpec{}, block.mixer = layers::NoMixerSpec{};
    block.mixer_norm.reset(), block.ffn_norm.reset();
    (dense.hidden > 0 ? block.ffn_norm : block.mixer_norm) = spec.final_norm;
    mamba.conv_bias = metadata.has_tensor(layer + "ssm_conv1d.bias");
    if (dense.hidden > 0)
      block.ffn = dense;
    else if (attention.kv_heads > 0)
      block.mixer = attention;
    else
      block.mixer = mamba;
  }
  if (metadata.integer("expert_count", 0) > 0) {
    metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length"),
                                .shared_hidden = metadata.integer("expert_shared_feed_forward_length"),
                                .renormalise = true,
                                .score = layers::RouterSpec::Score::sigmoid,
                                .selection_bias = true,
                                .groups = true});
    metadata.inert({"expert_shared_count"});
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (!metadata.has_tensor("blk." + std::to_string(i) + ".ffn_gate_inp.weight")) continue;
      auto moe = std::get<layers::MoeSpec>(spec.blocks[i].ffn);
      moe.gated = false, moe.activation = ops::Activation::relu2, moe.latent = latent;
      blocks[i].ffn = moe;
    }
  }
  spec.blocks = std::move(blocks);
  deepseek::drop_prediction_layers(metadata, spec);
  return spec;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  std::vector<uint64_t> kv_heads, hidden;
  for (const BlockSpec& block : spec.blocks) {
    const auto* attention = std::get_if<layers::AttentionSpec>(&block.mixer);
    const auto* dense = std::get_if<layers::DenseFfnSpec>(&block.ffn);
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    kv_heads.push_back(attention ? static_cast<uint64_t>(attention->kv_heads) : 0);
    hidden.push_back(static_cast<uint64_t>(dense ? dense->hidden : moe ? moe->hidden : 0));
    if (moe && moe->latent > 0) metadata.put("moe_latent_size", static_cast<uint64_t>(moe->latent));
    if (moe) metadata.put("expert_shared_count", uint64_t{1});
  }
  metadata.put("attention.head_count_kv", kv_heads);
  metadata.put("feed_forward_length", hidden);
  metadata.erase("rope.scaling.finetuned");
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.sizes();
  config.json["architectures"] = {"NemotronHForCausalLM"};
  config.json["layer_norm_epsilon"] = decimal(spec.final_norm.eps);
  config.json.erase("hidden_act");
  std::vector<std::string> kinds;
  for (const BlockSpec& block : spec.blocks) {
    if (const auto* mamba = std::get_if<layers::Mamba2Spec>(&block.mixer)) {
      kinds.emplace_back("linear_attention");
      config.json["mamba_num_heads"] = mamba->heads, config.json["mamba_head_dim"] = mamba->head_dim;
      config.json["ssm_state_size"] = mamba->states, config.json["n_groups"] = mamba->groups;
      config.json["conv_kernel"] = mamba->conv_width, config.json["use_conv_bias"] = mamba->conv_bias;
      config.json["use_bias"] = mamba->projection_bias;
      config.json["mamba_hidden_act"] = activation_name(mamba->activation);
      config.json["time_step_min"] = decimal(mamba->dt_min);
    } else if (const auto* dense = std::get_if<layers::DenseFfnSpec>(&block.ffn)) {
      kinds.emplace_back("mlp");
      config.json["intermediate_size"] = dense->hidden, config.json["mlp_bias"] = dense->bias;
      config.json["mlp_hidden_act"] = activation_name(dense->activation);
    } else if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) {
      kinds.emplace_back("moe");
      config.json["mlp_hidden_act"] = activation_name(moe->activation), config.json["mlp_bias"] = moe->shared_bias;
    } else {
      kinds.emplace_back("full_attention");
    }
  }
  config.json["layers_block_type"] = kinds;
  const layers::MoeSpec* const moe = first_moe(spec);
  if (!moe) return;
  config.experts("n_routed_experts");
  config.json["moe_intermediate_size"] = moe->hidden;
  config.json["moe_shared_expert_intermediate_size"] = moe->shared_hidden;
  if (moe->latent > 0) config.json["moe_latent_size"] = moe->latent;
  config.json["n_group"] = moe->router.groups, config.json["topk_group"] = moe->router.groups_kept;
  config.json["norm_topk_prob"] = moe->router.renormalise;
  config.json["routed_scaling_factor"] = decimal(moe->router.scale);
}

NameTable names() {
  NameTable table;
  const std::string layer = "backbone.layers.{layer}.", path = "blocks.{layer}.", mixer = layer + "mixer.";
  table.names["embedding"] = {{"backbone.embeddings.weight"}};
  table.names["final_norm"] = {{"backbone.norm_f.weight"}};
  table.names["head"] = {{"lm_head.weight"}};
  table.names[path + "mixer_norm"] = table.names[path + "ffn_norm"] = {{layer + "norm.weight"}};
  for (const std::string part : {"q", "k", "v", "o"})
    table.names[path + "attention." + part] = {{mixer + part + "_proj.weight"}};
  for (const std::string part : {"up", "down"}) {
    table.names[path + "ffn." + part] = {{mixer + part + "_proj.weight"}};
    table.names[path + "ffn." + part + ".bias"] = {{mixer + part + "_proj.bias"}};
    table.names[path + "moe.experts." + part] = {{mixer + "experts.{expert}." + part + "_proj.weight"},
                                                 {mixer + "experts." + part + "_proj"}};
    table.names[path + "moe.shared." + part] = {{mixer + "shared_experts." + part + "_proj.weight"}};
    table.names[path + "moe.shared." + part + ".bias"] = {{mixer + "shared_experts." + part + "_proj.bias"}};
  }
  table.names[path + "moe.router"] = {{mixer + "gate.weight"}};
  table.names[path + "moe.router.selection_bias"] = {{mixer + "gate.e_score_correction_bias"}};
  for (const auto& [ours, theirs] :
       {std::pair("latent_in", "fc1_latent_proj"), std::pair("latent_out", "fc2_latent_proj")})
    for (const std::string bias : {"", ".bias"})
      table.names[path + "moe." + ours + bias] = {{mixer + theirs + (bias.empty() ? ".weight" : ".bias")}};
  ssm::add_mamba2_names(table, {mixer});
  table.inert = {"mtp.*"};
  return table;
}

void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  table.names["blocks.{layer}.ffn_norm"] = {{"blk.{layer}.attn_norm.weight"}};
}

/// As NVIDIA has it (TensorRT-LLM, modeling_nemotron_h.py; vLLM's nemotron_h_mtp.py is alike): an attention and a
/// mixture, each with its norm, which together are a block as others have it. Its last norm is RMSNorm there; llama.cpp
/// takes the mean off, too, which no other program does.
BlockSpec prediction_block(const ModelSpec& spec) {
  BlockSpec block;
  const layers::AttentionSpec* attention = nullptr;
  for (const BlockSpec& each : spec.blocks)
    if (const auto* found = std::get_if<layers::AttentionSpec>(&each.mixer)) attention = found;
  const layers::MoeSpec* const moe = first_moe(spec);
  if (!attention || !moe)
    fail(ErrorKind::unsupported, spec.family.shown(),
         "its head for multi-token prediction is an attention and a mixture, and the model has none, of which the head "
         "would have the sizes");
  block.mixer = *attention, block.ffn = *moe;
  block.mixer_norm = block.ffn_norm = spec.final_norm;
  return block;
}

/// Two layers in a folder; one in GGUF, after the last.
void prediction_names(NameTable& table, const checkpoint::TensorSource* source, int64_t layers) {
  if (source && source->format() == checkpoint::Format::gguf) {
    const std::string head = fmt::format("blk.{}.", layers), own = head + "nextn.";
    move_layer(table, [&](std::string_view) { return head; });
    table.names["blocks.{layer}.ffn_norm"] = {{head + "post_attention_norm.weight"}};
    table.names["prediction.embedding_norm"] = {{own + "enorm.weight"}};
    table.names["prediction.hidden_norm"] = {{own + "hnorm.weight"}};
    table.names["prediction.projection"] = {{own + "eh_proj.weight"}};
    table.names["final_norm"] = {{own + "shared_head_norm.weight"}};
    return;
  }
  const std::string first = "mtp.layers.0.", second = "mtp.layers.1.";
  move_layer(table, [&](std::string_view path) {
    return path.starts_with("attention.") || path == "mixer_norm" ? first : second;
  });
  table.names["prediction.embedding_norm"] = {{first + "enorm.weight"}};
  table.names["prediction.hidden_norm"] = {{first + "hnorm.weight"}};
  table.names["prediction.projection"] = {{first + "eh_proj.weight"}};
  table.names["final_norm"] = {{second + "final_layernorm.weight"}};
}

constexpr PredictionForm kPrediction = {.block = prediction_block, .names = prediction_names};

}  // namespace

const Family kNemotronH = {
    .model_type = "nemotron_h",
    .architecture = "nemotron_h_moe",
    .class_name = "NemotronHForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
    .prediction = &kPrediction,
};
// GGUF of those without experts.
const Family kNemotronHDense = {
    .architecture = "nemotron_h",
    .class_name = "NemotronHForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
};

}  // namespace coterie::families
