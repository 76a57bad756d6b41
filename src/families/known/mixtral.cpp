#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/families.h"

// Mixtral of experts (Jiang et al. 2024, arXiv:2401.04088): Mistral with every FFN replaced by 8 experts; softmax over
// all, the best 2, weights renormalised. Its GGUF files are of architecture llama (llama.cpp beside this one).
namespace coterie::families {

namespace {

ModelSpec mixtral_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 32000,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .kv_heads = 8,
                                   .hidden = 14336,
                                   .context = 4096 * 32,
                                   .eps = 1e-5,
                                   .theta = 1e6});
  config.set_window(spec, config.sliding_window());
  layers::MoeSpec moe;
  moe.router.experts = config.experts(8);
  moe.router.experts_per_token = config.experts_per_token(2);
  moe.router.renormalise = true;
  moe.jitter = static_cast<float>(config.keys.number("router_jitter_noise", 0));
  if (!config.keys.boolean("norm_topk_prob", true))
    base::fail(base::ErrorKind::unsupported, config.keys.where(),
               "norm_topk_prob is false, but mixtral always renormalises the weights of the chosen experts");
  for (BlockSpec& block : spec.blocks) turn_into_experts(block, moe);
  spec.router_aux_loss = config.router_aux_loss(0.001);
  return spec;
}

NameTable mixtral_names() { return hugging_face_moe_names("block_sparse_moe", "w1", "w3", "w2"); }

void mixtral_to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.sliding_window();
  config.experts("num_local_experts");
  config.json["intermediate_size"] = first_moe(spec)->hidden;
}

bool has_experts(const ModelSpec& spec) { return first_moe(spec) != nullptr; }

}  // namespace

const Family kMixtral = {
    .model_type = "mixtral",
    .architecture = "llama",
    .class_name = "MixtralForCausalLM",
    .from_config = mixtral_from_config,
    .from_gguf = kLlama.from_gguf,
    .hugging_face_names = mixtral_names,
    .to_config = mixtral_to_config,
    .says = has_experts,
};

}  // namespace coterie::families
