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

constexpr Shape kShapes[] = {
    {"mixtral-8x7b", R"({"model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
      "num_experts_per_tok": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6})"},
    {"mixtral-8x22b", R"({"model_type": "mixtral", "vocab_size": 32768, "hidden_size": 6144,
      "intermediate_size": 16384, "num_hidden_layers": 56, "num_attention_heads": 48, "num_key_value_heads": 8,
      "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 65536, "rms_norm_eps": 1e-5,
      "rope_theta": 1e6})"},
};

}  // namespace

const Family kMixtral = {
    .model_type = "mixtral",
    .architecture = "llama",
    .class_name = "MixtralForCausalLM",
    .from_config = mixtral_from_config,
    .from_gguf = kLlama.from_gguf,
    .hugging_face_names = mixtral_names,
    .to_config = mixtral_to_config,
    .shapes = kShapes,
    .says = has_experts,
};

}  // namespace coterie::families
