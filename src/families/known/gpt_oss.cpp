#include <utility>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"

// gpt-oss (OpenAI 2025, arXiv:2508.10925): every other layer slides; each head has a sink, a logit that takes part in
// the softmax and adds nothing; YaRN whose ramp is not rounded to whole dimensions; a router with a bias that takes the
// softmax of the chosen logits; experts with biases and a clamped SwiGLU (ops::GateRule). Published experts are MXFP4.
namespace coterie::families {

namespace {

constexpr float kLimit = 7.0f, kAlpha = 1.702f;

/// MXFP4 is how the experts lie in the file, which their tensors say themselves.
void check_quantisation(ConfigReader& config) {
  const base::Json* quantisation = config.keys.object("quantization_config");
  if (!quantisation) return;
  base::JsonReader keys(*quantisation, config.keys.where() + ": quantization_config");
  if (const std::string method = keys.string("quant_method", ""); method != "mxfp4")
    base::fail(base::ErrorKind::unsupported, keys.where(), "quant_method is \"{}\": expected mxfp4", method);
}

layers::RopeSpec rotary(ConfigReader& config, const layers::AttentionSpec& attention, int64_t context) {
  if (config.keys.has("rope_scaling") || config.keys.has("rope_parameters"))
    return config.rope(attention.head_dim, context, {.theta = 150000});
  const base::Json published = {{"rope_type", "yarn"}, {"factor", 32},      {"beta_fast", 32},
                                {"beta_slow", 1},      {"truncate", false}, {"original_max_position_embeddings", 4096}};
  return config.rope_of(published, "the reference's default rope_parameters", attention.head_dim, context,
                        {.theta = config.keys.number("rope_theta", 150000.0)});
}

ModelSpec gpt_oss_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 201088,
                                   .width = 2880,
                                   .layers = 36,
                                   .heads = 64,
                                   .kv_heads = 8,
                                   .head_dim = 64,
                                   .hidden = 2880,
                                   .context = 131072,
                                   .eps = 1e-5,
                                   .rope_by_layer = true});
  check_quantisation(config);
  config.set_attention_biases(spec, true);
  const layers::RopeSpec rope =
      rotary(config, std::get<layers::AttentionSpec>(spec.blocks.front().mixer), spec.context);
  layers::MoeSpec moe;
  moe.router.experts = config.experts(128);
  moe.router.experts_per_token = config.experts_per_token(4);
  moe.router.order = layers::RouterSpec::Order::select_then_score;
  moe.router.bias = true;
  moe.bias = true;
  moe.swiglu_limit = static_cast<float>(config.keys.number("swiglu_limit", 7.0));
  moe.swiglu_alpha = static_cast<float>(config.keys.number("swiglu_alpha", 1.702));
  if (!(moe.swiglu_limit > 0))
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "swiglu_limit is {}", moe.swiglu_limit);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.sinks = true;
    attention.rope = rope;
    const auto& dense = std::get<layers::DenseFfnSpec>(block.ffn);
    if (dense.activation != ops::Activation::silu)
      base::fail(base::ErrorKind::unsupported, config.keys.where(), "the experts of gpt_oss have hidden_act silu only");
    moe.hidden = dense.hidden;
    block.ffn = moe;
  }
  config.set_windows(spec, config.sliding_window(128), [](int64_t layer) { return layer % 2 == 0; });
  spec.router_aux_loss = config.router_aux_loss(0.001);
  config.keys.inert({"initial_context_length"});  // what YaRN's original_max_position_embeddings says
  return spec;
}

ModelSpec gpt_oss_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length")});
  metadata.set_windows(spec, metadata.integer("attention.sliding_window"), 2);
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.sinks = true;
    attention.rope->truncate = false;  // no key says so
    auto& moe = std::get<layers::MoeSpec>(block.ffn);
    moe.router.order = layers::RouterSpec::Order::select_then_score;
    moe.swiglu_limit = kLimit, moe.swiglu_alpha = kAlpha;
  }
  return spec;
}

NameTable gpt_oss_names() {
  NameTable table = hugging_face_names();
  const std::string path = "blocks.{layer}.", layer = "model.layers.{layer}.", mlp = layer + "mlp.";
  const std::string gate_up = mlp + "experts.gate_up_proj", down = mlp + "experts.down_proj";
  table.names[path + "attention.sinks"] = {{layer + "self_attn.sinks"}};
  table.names[path + "moe.router"] = {{mlp + "router.weight"}};
  table.names[path + "moe.router.bias"] = {{mlp + "router.bias"}};
  for (const auto& [part, piece] : {std::pair("gate", Piece::even_rows), std::pair("up", Piece::odd_rows)}) {
    table.names[path + "moe.experts." + part] = {{gate_up, piece, false, Form::transposed},
                                                 {gate_up + "_blocks", piece, false, Form::mxfp4_pair}};
    table.names[path + "moe.experts." + part + ".bias"] = {{gate_up + "_bias", piece}};
  }
  table.names[path + "moe.experts.down"] = {{down, Piece::whole, false, Form::transposed},
                                            {down + "_blocks", Piece::whole, false, Form::mxfp4_pair}};
  table.names[path + "moe.experts.down.bias"] = {{down + "_bias"}};
  return table;
}

void gpt_oss_to_gguf(const ModelSpec& spec, MetadataWriter& metadata) { metadata.window_pattern(spec); }

// llama.cpp calls the norm before the FFN one after the attention.
void adjust_gguf_names(NameTable& table, Direction, const checkpoint::TensorSource*) {
  std::vector<NameInFile>& names = table.names["blocks.{layer}.ffn_norm"];
  std::swap(names[0], names[1]);
}

}  // namespace

const Family kGptOss = {
    .model_type = "gpt_oss",
    .architecture = "gpt-oss",
    .class_name = "GptOssForCausalLM",
    .from_config = gpt_oss_from_config,
    .from_gguf = gpt_oss_from_gguf,
    .hugging_face_names = gpt_oss_names,
    .to_gguf = gpt_oss_to_gguf,
    .adjust_gguf_names = adjust_gguf_names,
};

}  // namespace coterie::families
