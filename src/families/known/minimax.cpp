#include <cmath>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/known/families.h"

// MiniMax-01 and M1 (arXiv:2501.08313, arXiv:2506.13585): seven layers of lightning attention to one of softmax
// attention, both with experts in every layer; what a norm gives takes the stream's place, and the stream and what is
// added to it have factors.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

std::vector<bool> linear_layers(ConfigReader& config, size_t layers) {
  std::vector<std::string> types = config.keys.strings("layer_types");
  // As published: 0 is linear, 1 is full.
  const std::vector<int64_t> published = config.keys.integers("attn_type_list");
  std::vector<bool> linear;
  if (types.empty())
    for (const int64_t kind : published) types.emplace_back(kind == 0 ? "linear_attention" : "full_attention");
  if (types.empty())
    for (size_t i = 0; i < layers; ++i) types.emplace_back((i + 1) % 2 == 0 ? "linear_attention" : "full_attention");
  if (types.size() != layers)
    fail(ErrorKind::bad_input, config.keys.where(), "layer_types has {} entries for {} layers", types.size(), layers);
  for (const std::string& type : types) {
    if (type != "linear_attention" && type != "full_attention")
      fail(ErrorKind::unsupported, config.keys.where(),
           "layer_types has \"{}\": expected linear_attention or full_attention", type);
    linear.push_back(type == "linear_attention");
  }
  return linear;
}

/// alpha of the stream and beta of what is added, by the reference's keys or by published ones.
layers::ResidualSpec residual(ConfigReader& config, const std::string& kind, const std::string& published) {
  layers::ResidualSpec spec{.normed = true};
  const double alpha = config.keys.number("layernorm_" + published + "_alpha", 1.0);
  const double beta = config.keys.number("layernorm_" + published + "_beta", 1.0);
  spec.kept = static_cast<float>(config.keys.number(kind + "_alpha_factor", alpha));
  spec.added = static_cast<float>(config.keys.number(kind + "_beta_factor", beta));
  return spec;
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 32000,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .kv_heads = 8,
                                   .hidden = 14336,
                                   .context = 131072,
                                   .eps = 1e-5,
                                   .rope_by_layer = true});
  const auto plain = std::get<layers::AttentionSpec>(spec.blocks.front().mixer);
  const int64_t dims = config.keys.integer("rotary_dim", plain.head_dim);
  if (dims != plain.head_dim)
    config.warnings.push_back(config.keys.where() +
                              ": rotary_dim has no effect for model_type minimax, as in the "
                              "reference");
  const layers::RopeSpec rope = config.rope(plain.head_dim, spec.context, {.theta = 1e6});
  const int64_t window = config.sliding_window().value_or(0);
  const layers::ResidualSpec of_full = residual(config, "full_attn", "full_attention"),
                             of_linear = residual(config, "linear_attn", "linear_attention"),
                             of_ffn = residual(config, "mlp", "mlp");
  layers::MoeSpec moe;
  moe.router.experts = config.experts(8), moe.router.experts_per_token = config.experts_per_token(2);
  moe.router.renormalise = true, moe.router.renormalise_epsilon = 0;
  moe.jitter = static_cast<float>(config.keys.number("router_jitter_noise", 0));
  config.expect("shared_intermediate_size", 0), config.expect("postnorm", true);
  config.keys.inert({"block_size", "shared_moe_mode"});  // how prompts are cut, which changes nothing
  const std::vector<bool> linear = linear_layers(config, spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    BlockSpec& block = spec.blocks[i];
    block.mixer_residual = linear[i] ? of_linear : of_full, block.ffn_residual = of_ffn;
    const ops::Activation activation = std::get<layers::DenseFfnSpec>(block.ffn).activation;
    turn_into_experts(block, moe);
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.rope = rope, attention.window = window;
    if (!linear[i]) continue;
    const double depth = static_cast<double>(i) / (static_cast<double>(spec.blocks.size()) - 1 + 1e-5);
    block.mixer = layers::LightningSpec{.heads = plain.heads,
                                        .head_dim = plain.head_dim,
                                        .activation = activation,
                                        .slope = static_cast<float>(1 - depth + 1e-5),
                                        .norm_eps = 1e-6f};
  }
  spec.router_aux_loss = config.router_aux_loss(0.001);
  return spec;
}

ModelSpec no_gguf(MetadataReader&) { fail(ErrorKind::unsupported, "MiniMax-01", "GGUF has no architecture for it"); }

NameTable names() {
  NameTable table = hugging_face_moe_names("block_sparse_moe", "w1", "w3", "w2");
  const std::string layer = "model.layers.{layer}.self_attn.", path = "blocks.{layer}.lightning.";
  const std::pair<const char*, const char*> parts[] = {
      {"qkv", "qkv_proj"}, {"gate", "output_gate"}, {"norm", "norm"}, {"out", "out_proj"}};
  for (const auto& [ours, theirs] : parts) table.names[path + ours] = {{layer + theirs + ".weight"}};
  // Buffers that transformers writes: what the decay comes to in a block of its prefill.
  for (const char* buffer : {"slope_rate", "query_decay", "key_decay", "diagonal_decay"})
    table.inert.push_back(layer + buffer);
  return table;
}

}  // namespace

const Family kMiniMax = {
    .model_type = "minimax",
    .class_name = "MiniMaxForCausalLM",
    .from_config = from_config,
    .from_gguf = no_gguf,
    .hugging_face_names = names,
};

}  // namespace coterie::families
