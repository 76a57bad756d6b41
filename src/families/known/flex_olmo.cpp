#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/known/families.h"

// FlexOlmo (arXiv:2507.07024): OLMoE's experts in OLMo 2's block, whose norms stand after attention and experts. GGUF
// has no architecture for it.
namespace coterie::families {

namespace {

using layers::AttentionSpec;

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 100352,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .hidden = 11008,
                                   .context = 4096,
                                   .theta = 500000});
  config.set_attention_biases(spec);
  layers::MoeSpec moe;
  moe.router.experts = config.experts(7);
  moe.router.experts_per_token = config.experts_per_token(5);
  moe.router.renormalise = config.keys.boolean("norm_topk_prob", false);
  for (BlockSpec& block : spec.blocks) {
    block.mixer_norm.reset(), block.ffn_norm.reset();
    block.mixer_post_norm = block.ffn_post_norm = spec.final_norm;
    std::get<AttentionSpec>(block.mixer).qk_norm = AttentionSpec::QkNorm::full_width;
    turn_into_experts(block, moe);
  }
  spec.router_aux_loss = config.router_aux_loss(0.01);
  return spec;
}

ModelSpec from_gguf(MetadataReader&) {
  base::fail(base::ErrorKind::unsupported, "flex_olmo", "GGUF has no architecture for it");
}

NameTable names() {
  NameTable table = hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj");
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  table.names[path + "mixer_post_norm"] = {{layer + "post_attention_layernorm.weight"}};
  table.names[path + "ffn_post_norm"] = {{layer + "post_feedforward_layernorm.weight"}};
  table.names.erase(path + "ffn_norm");
  return table;
}

}  // namespace

const Family kFlexOlmo = {
    .model_type = "flex_olmo",
    .class_name = "FlexOlmoForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
};

}  // namespace coterie::families
