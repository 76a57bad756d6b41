#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// Qwen3-Next, and Qwen3.5 with experts and without: three layers of Gated DeltaNet (arXiv:2412.06464) for each one of
// attention, whose output is gated and whose heads are rotated in part; norms that multiply by 1 + w; fine-grained
// experts beside a shared one behind a gate. In Qwen3-Next's files what linear attention projects to lies by key head.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

/// Layers of linear attention: by layer_types, or all but each full_attention_interval-th.
std::vector<bool> linear_layers(ConfigReader& config, size_t layers) {
  const std::vector<std::string> types = config.keys.strings("layer_types");
  const int64_t interval = config.keys.integer("full_attention_interval", 4);
  if (!types.empty() && types.size() != layers)
    fail(ErrorKind::bad_input, config.keys.where(), "layer_types has {} entries for {} layers", types.size(), layers);
  if (interval < 1) fail(ErrorKind::bad_input, config.keys.where(), "full_attention_interval is {}", interval);
  std::vector<bool> linear;
  for (size_t i = 0; i < layers; ++i) {
    if (!types.empty() && types[i] != "linear_attention" && types[i] != "full_attention")
      fail(ErrorKind::unsupported, config.keys.where(),
           "layer_types[{}] is \"{}\": expected linear_attention or full_attention", i, types[i]);
    linear.push_back(types.empty() ? (static_cast<int64_t>(i) + 1) % interval != 0 : types[i] == "linear_attention");
  }
  return linear;
}

ModelSpec decoder(ConfigReader& config, ConfigDefaults defaults) {
  defaults.head_dim = 256;
  defaults.partial_rotary = 0.25;
  defaults.image_positions = true;
  ModelSpec spec = config.decoder(defaults);
  config.set_attention_biases(spec);
  spec.final_norm.weight_offset = 1;
  layers::DeltaRuleSpec delta;
  delta.key_heads = config.keys.integer("linear_num_key_heads", 16);
  delta.value_heads = config.keys.integer("linear_num_value_heads", 32);
  delta.key_dim = config.keys.integer("linear_key_head_dim", 128);
  delta.value_dim = config.keys.integer("linear_value_head_dim", 128);
  delta.conv_width = config.keys.integer("linear_conv_kernel_dim", 4);
  delta.activation = std::get<layers::DenseFfnSpec>(spec.blocks.front().ffn).activation;
  delta.norm_eps = spec.final_norm.eps;
  const std::vector<bool> linear = linear_layers(config, spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    BlockSpec& block = spec.blocks[i];
    block.mixer_norm = block.ffn_norm = spec.final_norm;
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
    attention.qk_norm_offset = 1;
    attention.gate.shape = layers::OutputGate::Shape::beside_query;
    if (linear[i]) block.mixer = delta;
  }
  if (!config.keys.boolean("attn_output_gate", true))
    fail(ErrorKind::unsupported, config.keys.where(), "attn_output_gate is false: attention here has its gate");
  if (const std::string gate = config.keys.string("output_gate_type", "swish"); gate != "swish" && gate != "silu")
    fail(ErrorKind::unsupported, config.keys.where(), "output_gate_type is \"{}\": expected \"swish\"", gate);
  // How states are held elsewhere, and layers for drafting, whose tensors are left alone.
  config.keys.inert({"mamba_ssm_dtype", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"});
  return spec;
}

layers::MoeSpec experts(ConfigReader& config, int64_t count, int64_t chosen) {
  layers::MoeSpec moe;
  moe.router.experts = config.experts(count);
  moe.router.experts_per_token = config.experts_per_token(chosen);
  moe.router.renormalise = true;
  moe.hidden = config.keys.integer("moe_intermediate_size", 512);
  moe.shared_hidden = config.keys.integer("shared_expert_intermediate_size", 512);
  moe.shared_gate = true;
  return moe;
}

void set_experts(BlockSpec& block, layers::MoeSpec moe) {
  moe.activation = std::get<layers::DenseFfnSpec>(block.ffn).activation;
  block.ffn = moe;
}

ModelSpec next_from_config(ConfigReader& config) {
  ModelSpec spec = decoder(config, {.vocabulary = 151936,
                                    .width = 2048,
                                    .layers = 48,
                                    .heads = 16,
                                    .kv_heads = 2,
                                    .hidden = 5632,
                                    .context = 32768});
  layers::MoeSpec moe = experts(config, 512, 10);
  moe.router.renormalise = config.keys.boolean("norm_topk_prob", true);
  const int64_t step = config.keys.integer("decoder_sparse_step", 1);
  if (step < 1) fail(ErrorKind::bad_input, config.keys.where(), "decoder_sparse_step is {}", step);
  const std::vector<int64_t> dense = config.keys.integers("mlp_only_layers");
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    if (std::find(dense.begin(), dense.end(), layer) != dense.end() || (layer + 1) % step != 0) continue;
    if (moe.router.experts > 0) set_experts(spec.blocks[i], moe);
  }
  spec.router_aux_loss = config.router_aux_loss(0.001);
  return spec;
}

ModelSpec moe_from_config(ConfigReader& config) {
  ModelSpec spec = decoder(
      config,
      {.vocabulary = 248320, .width = 2048, .layers = 40, .heads = 16, .kv_heads = 2, .hidden = 512, .context = 32768});
  const layers::MoeSpec moe = experts(config, 256, 8);
  for (BlockSpec& block : spec.blocks) set_experts(block, moe);
  // Its class has no such keys, and weights are always renormalised.
  config.keys.inert({"intermediate_size", "mlp_only_layers", "decoder_sparse_step", "norm_topk_prob"});
  spec.router_aux_loss = config.router_aux_loss(0.001);
  return spec;
}

ModelSpec dense_from_config(ConfigReader& config) {
  return decoder(config, {.vocabulary = 248320,
                          .width = 4096,
                          .layers = 32,
                          .heads = 16,
                          .kv_heads = 4,
                          .hidden = 12288,
                          .context = 32768});
}

/// Linear layers by attention.recurrent_layers, or all but each full_attention_interval-th.
void set_mixers(MetadataReader& metadata, ModelSpec& spec, bool by_turn) {
  layers::DeltaRuleSpec delta;
  delta.key_heads = metadata.integer("ssm.group_count"), delta.value_heads = metadata.integer("ssm.time_step_rank");
  delta.key_dim = metadata.integer("ssm.state_size"), delta.conv_width = metadata.integer("ssm.conv_kernel");
  const int64_t inner = metadata.integer("ssm.inner_size");
  if (delta.value_heads < 1 || inner % delta.value_heads != 0)
    fail(ErrorKind::bad_input, "ssm.time_step_rank", "{} heads for an inner size of {}", delta.value_heads, inner);
  delta.value_dim = inner / delta.value_heads;
  delta.norm_eps = spec.final_norm.eps;
  delta.by_turn = by_turn && delta.key_heads > 1 && delta.value_heads != delta.key_heads;
  const int64_t interval = metadata.integer("full_attention_interval", 4);
  if (interval < 1) fail(ErrorKind::bad_input, "full_attention_interval", "is {}", interval);
  std::vector<bool> linear;
  for (size_t i = 0; i < spec.blocks.size(); ++i) linear.push_back((static_cast<int64_t>(i) + 1) % interval != 0);
  linear = metadata.flags("attention.recurrent_layers", linear);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    auto& attention = std::get<layers::AttentionSpec>(spec.blocks[i].mixer);
    attention.qk_norm = layers::AttentionSpec::QkNorm::per_head;
    attention.gate.shape = layers::OutputGate::Shape::beside_query;
    if (linear[i]) spec.blocks[i].mixer = delta;
  }
}

ModelSpec from_gguf(MetadataReader& metadata, bool by_turn) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  metadata.inert({"rope.dimension_sections"});  // of positions in images
  set_mixers(metadata, spec, by_turn);
  if (metadata.integer("expert_count", 0) > 0)
    metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length"),
                                .shared_hidden = metadata.integer("expert_shared_feed_forward_length"),
                                .shared_gate = true,
                                .renormalise = true});
  deepseek::drop_prediction_layers(metadata, spec);
  return spec;
}

ModelSpec next_from_gguf(MetadataReader& metadata) { return from_gguf(metadata, false); }
ModelSpec in_turn_from_gguf(MetadataReader& metadata) { return from_gguf(metadata, true); }

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  std::vector<bool> linear;
  const layers::DeltaRuleSpec* delta = nullptr;
  uint64_t kv_heads = 0;
  for (const BlockSpec& block : spec.blocks) {
    const auto* one = std::get_if<layers::DeltaRuleSpec>(&block.mixer);
    linear.push_back(one != nullptr);
    if (one) delta = one;
    if (const auto* a = std::get_if<layers::AttentionSpec>(&block.mixer)) kv_heads = static_cast<uint64_t>(a->kv_heads);
  }
  metadata.put("attention.recurrent_layers", linear);
  metadata.put("attention.head_count_kv", kv_heads);
  if (!delta) return;
  metadata.put("ssm.conv_kernel", static_cast<uint64_t>(delta->conv_width));
  metadata.put("ssm.state_size", static_cast<uint64_t>(delta->key_dim));
  metadata.put("ssm.group_count", static_cast<uint64_t>(delta->key_heads));
  metadata.put("ssm.time_step_rank", static_cast<uint64_t>(delta->value_heads));
  metadata.put("ssm.inner_size", static_cast<uint64_t>(delta->value_width()));
}

void in_turn_to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  to_gguf(spec, metadata);
  // What llama.cpp asks for: how frequencies are shared among an image's positions, as published models have it.
  metadata.put("rope.dimension_sections", std::vector<int64_t>{11, 11, 10, 0});
}

void decoder_to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  const layers::AttentionSpec& attention = config.attention();
  config.json["partial_rotary_factor"] =
      static_cast<double>(attention.rope->dims) / static_cast<double>(attention.head_dim);
  std::vector<std::string> types;
  for (const BlockSpec& block : spec.blocks) {
    const auto* delta = std::get_if<layers::DeltaRuleSpec>(&block.mixer);
    types.emplace_back(delta ? "linear_attention" : "full_attention");
    if (!delta) continue;
    config.json["linear_num_key_heads"] = delta->key_heads, config.json["linear_num_value_heads"] = delta->value_heads;
    config.json["linear_key_head_dim"] = delta->key_dim, config.json["linear_value_head_dim"] = delta->value_dim;
    config.json["linear_conv_kernel_dim"] = delta->conv_width;
  }
  config.json["layer_types"] = types;
}

void moe_to_config(const ModelSpec& spec, ConfigWriter& config) {
  decoder_to_config(spec, config);
  config.experts("num_experts");
  const layers::MoeSpec& moe = *first_moe(spec);
  config.json["moe_intermediate_size"] = moe.hidden;
  config.json["shared_expert_intermediate_size"] = moe.shared_hidden;
}

void next_to_config(const ModelSpec& spec, ConfigWriter& config) {
  moe_to_config(spec, config);
  config.json["norm_topk_prob"] = first_moe(spec)->router.renormalise;
  config.json["decoder_sparse_step"] = 1;
  std::vector<size_t> dense;
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (!std::holds_alternative<layers::MoeSpec>(spec.blocks[i].ffn)) dense.push_back(i);
  config.json["mlp_only_layers"] = dense;
}

NameTable linear_names() {
  NameTable table = hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj");
  const std::string path = "blocks.{layer}.delta.", layer = "model.layers.{layer}.linear_attn.";
  const std::pair<const char*, const char*> names[] = {
      {"decay.bias", "dt_bias"}, {"a_log", "A_log"}, {"norm", "norm.weight"}, {"out", "out_proj.weight"}};
  for (const auto& [ours, theirs] : names) table.names[path + ours] = {{layer + theirs}};
  table.names[path + "conv"] = {{layer + "conv1d.weight", Piece::whole, false, Form::filters}};
  table.inert.push_back("mtp.*");
  return table;
}

NameTable next_names() {
  NameTable table = linear_names();
  const std::string path = "blocks.{layer}.delta.", layer = "model.layers.{layer}.linear_attn.";
  table.names[path + "qkv"] = {{layer + "in_proj_qkvz.weight", Piece::group_qkv}};
  table.names[path + "gate"] = {{layer + "in_proj_qkvz.weight", Piece::group_back}};
  table.names[path + "beta"] = {{layer + "in_proj_ba.weight", Piece::group_front}};
  table.names[path + "decay"] = {{layer + "in_proj_ba.weight", Piece::group_back}};
  return table;
}

NameTable names_apart() {
  NameTable table = linear_names();
  const std::string path = "blocks.{layer}.delta.", layer = "model.layers.{layer}.linear_attn.in_proj_";
  for (const auto& [ours, theirs] :
       {std::pair("qkv", "qkv"), std::pair("gate", "z"), std::pair("beta", "b"), std::pair("decay", "a")})
    table.names[path + ours] = {{layer + theirs + ".weight"}};
  return table;
}

// llama.cpp calls the norm before the FFN one after the attention.
void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  std::vector<NameInFile>& names = table.names["blocks.{layer}.ffn_norm"];
  std::swap(names[0], names[1]);
}

// Beta and decay lie by key head, in the first files all else too.
void adjust_next_gguf_names(NameTable& table, Direction direction, const checkpoint::TensorSource* source) {
  adjust_gguf_names(table, direction, source);
  const std::string path = "blocks.{layer}.delta.", layer = "blk.{layer}.";
  table.names[path + "beta"] = {{layer + "ssm_ba.weight", Piece::group_front}};
  table.names[path + "decay"] = {{layer + "ssm_ba.weight", Piece::group_back}};
  table.names[path + "qkv"].push_back({layer + "ssm_in.weight", Piece::group_qkv});
  table.names[path + "gate"].push_back({layer + "ssm_in.weight", Piece::group_back});
}

constexpr Multimodal kMoeOuter[] = {{"qwen3_5_moe"}}, kDenseOuter[] = {{"qwen3_5"}};

constexpr Shape kNextShapes[] = {
    {"qwen3-next-80b-a3b", R"({"model_type": "qwen3_next", "vocab_size": 151936, "hidden_size": 2048,
      "intermediate_size": 5120, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
      "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
      "num_experts": 512, "num_experts_per_tok": 10, "norm_topk_prob": true, "full_attention_interval": 4,
      "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
      "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.25,
      "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "rope_theta": 1e7})"},
};

constexpr Shape kMoeShapes[] = {
    {"qwen3.5-35b-a3b", R"({"model_type": "qwen3_5_moe_text", "vocab_size": 248320, "hidden_size": 2048,
      "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_hidden_layers": 40,
      "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "num_experts": 256,
      "num_experts_per_tok": 8, "full_attention_interval": 4, "linear_num_key_heads": 16,
      "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
      "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.25, "max_position_embeddings": 262144,
      "rms_norm_eps": 1e-6, "rope_theta": 1e7})"},
};

}  // namespace

const Family kQwen3Next = {
    .model_type = "qwen3_next",
    .architecture = "qwen3next",
    .class_name = "Qwen3NextForCausalLM",
    .from_config = next_from_config,
    .from_gguf = next_from_gguf,
    .hugging_face_names = next_names,
    .to_config = next_to_config,
    .to_gguf = to_gguf,
    .adjust_gguf_names = adjust_next_gguf_names,
    .shapes = kNextShapes,
};
const Family kQwen35Moe = {
    .model_type = "qwen3_5_moe_text",
    .architecture = "qwen35moe",
    .class_name = "Qwen3_5MoeForCausalLM",
    .from_config = moe_from_config,
    .from_gguf = in_turn_from_gguf,
    .hugging_face_names = names_apart,
    .to_config = moe_to_config,
    .to_gguf = in_turn_to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
    .shapes = kMoeShapes,
    .multimodal = kMoeOuter,
};
const Family kQwen35 = {
    .model_type = "qwen3_5_text",
    .architecture = "qwen35",
    .class_name = "Qwen3_5ForCausalLM",
    .from_config = dense_from_config,
    .from_gguf = in_turn_from_gguf,
    .hugging_face_names = names_apart,
    .to_config = decoder_to_config,
    .to_gguf = in_turn_to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
    .multimodal = kDenseOuter,
};

}  // namespace coterie::families
