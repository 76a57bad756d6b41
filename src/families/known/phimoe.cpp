#include <fmt/format.h>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/families.h"

// Phi-3.5-MoE (arXiv:2404.14219): 16 experts chosen by SparseMixer (arXiv:2409.12136), two for each token, whose
// weights do not sum to one; LayerNorms with biases; LongRoPE with a magnitude of its own for each length.
//
// Past the original context the model's first code rotated by long_factor; the reference computes its frequencies anew
// in each pass without the length, so that short_factor holds there as well and only the magnitude changes. This
// follows the reference.
namespace coterie::families {

namespace {

void layer_norms(ModelSpec& spec) {
  spec.final_norm.kind = layers::NormSpec::Kind::layer;
  spec.final_norm.bias = true;
  for (BlockSpec& block : spec.blocks) block.mixer_norm = block.ffn_norm = spec.final_norm;
}

/// SparseMixer is two rounds, whatever num_experts_per_tok says.
void sparsemixer(layers::RouterSpec& router, float near_best) {
  router.experts_per_token = 2;
  router.selection = layers::RouterSpec::Selection::sparsemixer;
  router.near_best = near_best;
}

ModelSpec phimoe_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 32064,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .kv_heads = 8,
                                   .hidden = 6400,
                                   .context = 4096 * 32,
                                   .eps = 1e-5,
                                   .theta = 1e6,
                                   .magnitudes = true});
  layer_norms(spec);
  config.set_attention_biases(spec);
  spec.head_bias = config.keys.boolean("lm_head_bias", false);
  layers::MoeSpec moe;
  moe.router.experts = config.experts(16);
  if (const int64_t chosen = config.experts_per_token(2); chosen != 2)
    config.warnings.push_back(
        fmt::format("{}: num_experts_per_tok is {}, but phimoe's router always chooses 2, as in the reference",
                    config.keys.where(), chosen));
  sparsemixer(moe.router, static_cast<float>(config.keys.number("router_jitter_noise", 0.01)));
  // The router shakes once more what the whole layer reads.
  moe.jitter = moe.router.jitter = static_cast<float>(config.keys.number("input_jitter_noise", 0));
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    using Scaling = layers::RopeSpec::Scaling;
    if (attention.rope->scaling != Scaling::none && attention.rope->scaling != Scaling::longrope)
      base::fail(base::ErrorKind::unsupported, config.keys.where(), "the rotary scaling of phimoe is longrope or none");
    attention.rope->long_factors = attention.rope->short_factors;
    turn_into_experts(block, moe);
  }
  config.set_window(spec, config.sliding_window());
  spec.router_aux_loss = config.router_aux_loss(0.001);
  config.keys.inert({"original_max_position_embeddings"});  // read with longrope
  return spec;
}

// The converter writes one magnitude, computed from the context, in place of the config's two.
ModelSpec phimoe_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  layer_norms(spec);
  metadata.set_window(spec);
  metadata.set_experts(spec, {.hidden = metadata.integer("feed_forward_length")});
  for (BlockSpec& block : spec.blocks) {
    sparsemixer(std::get<layers::MoeSpec>(block.ffn).router, 0.01f);
    auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    attention.rope->long_factors = attention.rope->short_factors;
  }
  return spec;
}

NameTable phimoe_names() {
  NameTable table = hugging_face_moe_names("block_sparse_moe", "w1", "w3", "w2");
  const std::string path = "blocks.{layer}.", layer = "model.layers.{layer}.";
  table.names[path + "moe.router"].push_back({layer + "mlp.router.weight"});
  table.names[path + "mixer_norm.bias"] = {{layer + "input_layernorm.bias"}};
  table.names[path + "ffn_norm.bias"] = {{layer + "post_attention_layernorm.bias"}};
  table.names["final_norm.bias"] = {{"model.norm.bias"}};
  return table;
}

}  // namespace

const Family kPhimoe = {
    .model_type = "phimoe",
    .architecture = "phimoe",
    .class_name = "PhimoeForCausalLM",
    .from_config = phimoe_from_config,
    .from_gguf = phimoe_from_gguf,
    .hugging_face_names = phimoe_names,
};

}  // namespace coterie::families
