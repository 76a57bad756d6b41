#include <cmath>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// LongCat-Flash (Meituan 2025, arXiv:2509.01322): a layer has two latent attentions and two dense FFNs, one after the
// other, and experts that read what the first FFN reads and whose result is added after the second: two blocks here,
// and a shortcut. Some experts compute nothing: they give back what they read. Both latents are scaled up to the width.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;

layers::RouterSpec router_of(ConfigReader& config, int64_t identity) {
  layers::RouterSpec router;
  router.experts = config.experts(512) + identity;
  router.experts_per_token = config.keys.integer("moe_topk", 12);
  router.selection_bias = true;
  router.scale = static_cast<float>(config.keys.number("routed_scaling_factor", 6.0));
  config.expect("norm_topk_prob", false), config.expect("router_bias", false);
  config.expect("zero_expert_type", "identity");
  return router;
}

void scale_latents(ConfigReader& config, const ModelSpec& spec, layers::LatentAttentionSpec& mla) {
  if (mla.q_rank == 0)
    fail(ErrorKind::unsupported, config.keys.where(),
         "q_lora_rank is null: the queries of this model_type are low-rank");
  const auto width = static_cast<double>(spec.width);
  // The queries' factor goes into the scores.
  mla.scale *= static_cast<float>(std::sqrt(width / static_cast<double>(mla.q_rank)));
  mla.latent_scale = static_cast<float>(std::sqrt(width / static_cast<double>(mla.kv_rank)));
  config.expect("mla_scale_q_lora", true), config.expect("mla_scale_kv_lora", true);
}

ModelSpec from_config(ConfigReader& config) {
  const int64_t layers = config.keys.integer("num_layers", 28);
  const bool silent = config.silent_defaults;
  config.silent_defaults |= config.keys.has("num_layers");  // which says what num_hidden_layers does elsewhere
  const int64_t given = config.keys.integer("num_hidden_layers", 2 * layers);
  if (given != 2 * layers && given != layers)
    fail(ErrorKind::bad_input, config.keys.where(), "num_hidden_layers is {} and num_layers {}: expected twice as many",
         given, layers);
  ModelSpec spec = config.decoder({.vocabulary = 131072,
                                   .width = 6144,
                                   .layers = layers,
                                   .heads = 64,
                                   .head_dim = config.keys.integer("qk_rope_head_dim", 64),
                                   .hidden = 12288,
                                   .context = 131072,
                                   .eps = 1e-5,
                                   .theta = 1e7});
  config.silent_defaults = silent;
  spec.blocks.resize(static_cast<size_t>(2 * layers), spec.blocks.front());
  deepseek::set_attention(config, spec, true,
                          {.q_rank = 1536, .kv_rank = 512, .nope_dim = 128, .rope_dim = 64, .value_dim = 128});
  const int64_t hidden = config.keys.integer("ffn_hidden_size", 12288);
  const int64_t identity = config.is_null("zero_expert_num") ? 0 : config.keys.integer("zero_expert_num", 256);
  config.keys.inert({"zero_expert_num", "head_dim", "attention_method"});
  layers::MoeSpec moe;
  moe.identity_experts = identity;
  moe.router = router_of(config, identity);
  moe.hidden = config.keys.integer("expert_ffn_hidden_size", 2048);
  moe.shared_hidden = hidden, moe.shortcut = true;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    BlockSpec& block = spec.blocks[i];
    scale_latents(config, spec, std::get<layers::LatentAttentionSpec>(block.mixer));
    auto& dense = std::get<layers::DenseFfnSpec>(block.ffn);
    dense.hidden = hidden;
    if (i % 2 == 1) {
      block.adds_shortcut = true;
      continue;
    }
    moe.activation = dense.activation;
    block.ffn = moe;
  }
  return spec;
}

ModelSpec no_gguf(MetadataReader&) { fail(ErrorKind::unsupported, "LongCat-Flash", "GGUF has no architecture for it"); }

NameTable names() {
  NameTable table = deepseek::latent_names();
  const std::string layer = "model.layers.{half_layer}.", path = "blocks.{layer}.";
  for (auto& [ours, theirs] : table.names)
    for (NameInFile& name : theirs)
      if (const size_t at = name.pattern.find("layers.{layer}.self_attn."); at != std::string::npos)
        name.pattern.replace(at, 25, "layers.{half_layer}.self_attn.{odd}.");
  const auto name = [&](const std::string& ours, const std::string& theirs) {
    table.names[path + ours] = {{layer + theirs}};
  };
  name("mixer_norm", "input_layernorm.{odd}.weight"), name("ffn_norm", "post_attention_layernorm.{odd}.weight");
  for (const std::string part : {"gate", "up", "down"}) {
    name("ffn." + part, "mlps.{odd}." + part + "_proj.weight");
    name("moe.shared." + part, "mlps.{odd}." + part + "_proj.weight");
    name("moe.experts." + part, "mlp.experts.{expert}." + part + "_proj.weight");
  }
  name("moe.router", "mlp.router.classifier.weight");
  name("moe.router.selection_bias", "mlp.router.e_score_correction_bias");
  // transformers makes weights for experts that have none, and reads none of the prediction layer.
  table.inert.push_back("model.layers.{layer}.mlp.experts.*"), table.inert.push_back("model.mtp.*");
  return table;
}

}  // namespace

const Family kLongcatFlash = {
    .model_type = "longcat_flash",
    .class_name = "LongcatFlashForCausalLM",
    .from_config = from_config,
    .from_gguf = no_gguf,
    .hugging_face_names = names,
};

}  // namespace coterie::families
