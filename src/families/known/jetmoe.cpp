#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/known/families.h"

// JetMoE (arXiv:2404.07413): experts of heads in the attention (layers/attention/head_experts.h) and of a SwiGLU FFN,
// each with a router of its own and one bias of their sum. GGUF has no architecture for it.
namespace coterie::families {

namespace {

using layers::AttentionSpec;

ModelSpec from_config(ConfigReader& config) {
  const int64_t chosen = config.experts_per_token(2), kv_heads = config.keys.integer("num_key_value_heads", 16);
  ModelSpec spec = config.decoder({.vocabulary = 32000,
                                   .width = 2048,
                                   .layers = 12,
                                   .heads = kv_heads * chosen,
                                   .kv_heads = 16,
                                   .head_dim = config.keys.integer("kv_channels", 128),
                                   .hidden = 5632,
                                   .context = 4096,
                                   .tied = true});
  config.expect("head_dim", config.keys.integer("kv_channels", 128));
  layers::RouterSpec router;
  router.experts = config.experts(8), router.experts_per_token = chosen;
  router.order = layers::RouterSpec::Order::select_then_score;
  layers::MoeSpec moe;
  moe.router = router;
  moe.output_bias = true;
  const ops::Activation activation = config.activation("activation_function");
  config.keys.inert({"hidden_act"});
  for (BlockSpec& block : spec.blocks) {
    // The reference gives the norms of the blocks its default.
    block.mixer_norm->eps = block.ffn_norm->eps = 1e-6f;
    auto& attention = std::get<AttentionSpec>(block.mixer);
    // The reference ignores what the file says of their number.
    attention.heads = kv_heads * chosen;
    attention.experts = router;
    attention.o_bias = true;
    turn_into_experts(block, moe);
    std::get<layers::MoeSpec>(block.ffn).activation = activation;
  }
  const double coefficient = config.keys.number("aux_loss_coef", 0.01);
  if (config.keys.boolean("output_router_logits", false)) spec.router_aux_loss = static_cast<float>(coefficient);
  return spec;
}

ModelSpec no_gguf(MetadataReader&) {
  base::fail(base::ErrorKind::unsupported, "JetMoE", "GGUF has no architecture for it");
}

NameTable names() {
  NameTable table = hugging_face_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  const std::string heads = layer + "self_attention.", experts = layer + "mlp.";
  table.names[path + "attention.k"] = {{heads + "kv_proj.weight", Piece::first_half}};
  table.names[path + "attention.v"] = {{heads + "kv_proj.weight", Piece::second_half}};
  table.names[path + "attention.router"] = {{heads + "experts.router.layer.weight"}};
  table.names[path + "attention.experts.q"] = {{heads + "experts.input_linear.weight"}};
  table.names[path + "attention.experts.o"] = {{heads + "experts.output_linear.weight"}};
  table.names[path + "attention.experts.bias"] = {{heads + "experts.bias"}};
  table.names[path + "moe.router"] = {{experts + "router.layer.weight"}};
  table.names[path + "moe.experts.gate"] = {{experts + "input_linear.weight", Piece::first_half}};
  table.names[path + "moe.experts.up"] = {{experts + "input_linear.weight", Piece::second_half}};
  table.names[path + "moe.experts.down"] = {{experts + "output_linear.weight"}};
  table.names[path + "moe.bias"] = {{experts + "bias"}};
  return table;
}

}  // namespace

const Family kJetMoe = {
    .model_type = "jetmoe",
    .class_name = "JetMoeForCausalLM",
    .from_config = from_config,
    .from_gguf = no_gguf,
    .hugging_face_names = names,
};

}  // namespace coterie::families
