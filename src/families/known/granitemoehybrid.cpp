#include "base/error.h"
#include "families/known/families.h"
#include "families/known/ssm.h"

// Granite 4 hybrid (IBM 2025): Mamba-2 blocks with some of attention, with rotary positions or none, and in each a MoE
// beside an expert that every token uses; without experts that one is the FFN. Four multipliers as in all Granites.
namespace coterie::families {

namespace {

constexpr ssm::MambaKeys kKeys = {.states = "mamba_d_state",
                                  .conv_width = "mamba_d_conv",
                                  .expand = "mamba_expand",
                                  .conv_bias = "mamba_conv_bias",
                                  .projection_bias = "mamba_proj_bias",
                                  .activation = "hidden_act",
                                  .default_states = 256};

layers::Mamba2Spec mamba_of(ConfigReader& config, const ModelSpec& spec) {
  layers::Mamba2Spec mamba = ssm::mamba2(config, kKeys);
  const int64_t inner = ssm::inner_width(config, kKeys, spec.width);
  mamba.heads = config.keys.integer("mamba_n_heads", 128);
  mamba.groups = config.keys.integer("mamba_n_groups", 1);
  mamba.norm_eps = spec.final_norm.eps;
  const base::Json* head = config.keys.value("mamba_d_head");
  const bool automatic = !head || (head->is_string() && head->get<std::string>() == "auto");
  mamba.head_dim = automatic && mamba.heads > 0 ? inner / mamba.heads : config.keys.integer("mamba_d_head");
  if (mamba.inner() != inner)
    base::fail(base::ErrorKind::bad_input, config.keys.where(),
               "mamba_expand * hidden_size is {}, mamba_n_heads * mamba_d_head is {}: expected the same", inner,
               mamba.inner());
  ssm::read_time_step_limit(config, mamba);
  return mamba;
}

ModelSpec granite_from_config(ConfigReader& config) {
  ModelSpec spec =
      config.decoder({.vocabulary = 32000, .width = 4096, .layers = 32, .heads = 32, .hidden = 11008, .context = 2048});
  spec.embedding_multiplier = static_cast<float>(config.keys.number("embedding_multiplier", 1));
  spec.logits_scaling = static_cast<float>(config.keys.number("logits_scaling", 1));
  const auto residual = static_cast<float>(config.keys.number("residual_multiplier", 1));
  const auto scale = static_cast<float>(config.keys.number("attention_multiplier", 1));
  config.set_attention_biases(spec);
  const bool rope = config.keys.string("position_embedding_type", "nope") == "rope";
  const layers::Mamba2Spec mamba = mamba_of(config, spec);
  layers::MoeSpec moe;
  moe.router.experts = config.experts(8);
  moe.router.experts_per_token = config.experts_per_token(2);
  moe.router.order = layers::RouterSpec::Order::select_then_score;
  moe.shared_hidden = config.keys.integer("shared_intermediate_size", 1024);
  const std::vector<std::string> kinds = ssm::layer_kinds(config, spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    BlockSpec& block = spec.blocks[i];
    block.residual_multiplier = residual;
    if (kinds.empty() || kinds[i] == "linear_attention") {
      block.mixer = mamba;
    } else if (kinds[i] == "full_attention") {
      auto& attention = std::get<layers::AttentionSpec>(block.mixer);
      attention.scale = scale;
      if (!rope) attention.rope.reset();
    } else {
      base::fail(base::ErrorKind::unsupported, config.keys.where(), "layer {} is {}", i, kinds[i]);
    }
    auto& dense = std::get<layers::DenseFfnSpec>(block.ffn);
    moe.hidden = dense.hidden, moe.activation = dense.activation;
    dense.hidden = moe.shared_hidden;
    if (moe.router.experts > 0) block.ffn = moe;
  }
  spec.router_aux_loss = config.router_aux_loss(0.001);
  ssm::mark_inert(config);
  config.keys.inert({"init_method", "normalization_function", "router_aux_loss_coef"});
  return spec;
}

ModelSpec granite_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::interleaved);
  layers::Mamba2Spec mamba = ssm::mamba2(metadata);
  mamba.norm_eps = spec.final_norm.eps;
  const auto positive = [&](std::string_view key) {
    const double value = metadata.number(key, 0.0);
    return value == 0 ? 1.0f : static_cast<float>(value);
  };
  spec.embedding_multiplier = positive("embedding_scale");
  spec.logits_scaling = positive("logit_scale");
  const float residual = positive("residual_scale");
  const double scale = metadata.number("attention.scale", 0.0);
  const bool rope = metadata.boolean("rope.scaling.finetuned", true);  // llama.cpp's switch for the positions
  for (BlockSpec& block : spec.blocks) {
    block.residual_multiplier = residual;
    auto* attention = std::get_if<layers::AttentionSpec>(&block.mixer);
    if (attention && attention->kv_heads > 0) {
      if (scale != 0) attention->scale = static_cast<float>(scale);
      if (!rope) attention->rope.reset();
    } else {
      block.mixer = mamba;
    }
  }
  const int64_t shared = metadata.integer("expert_shared_feed_forward_length", 0);
  if (metadata.integer("expert_count", 0) > 0) {
    metadata.set_experts(spec, {.hidden = metadata.integer("feed_forward_length"), .shared_hidden = shared});
    for (BlockSpec& block : spec.blocks)
      if (auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
        moe->router.order = layers::RouterSpec::Order::select_then_score;
  } else if (shared > 0) {
    for (BlockSpec& block : spec.blocks) std::get<layers::DenseFfnSpec>(block.ffn).hidden = shared;
  }
  return spec;
}

NameTable granite_names() {
  NameTable table = hugging_face_names();
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  const std::string moe = layer + "block_sparse_moe.", shared = layer + "shared_mlp.";
  table.names[path + "moe.router"] = {{moe + "router.layer.weight"}, {moe + "router.weight"}};
  table.names[path + "moe.experts.gate"] = {{moe + "input_linear.weight", Piece::first_half},
                                            {moe + "experts.gate_up_proj", Piece::first_half}};
  table.names[path + "moe.experts.up"] = {{moe + "input_linear.weight", Piece::second_half},
                                          {moe + "experts.gate_up_proj", Piece::second_half}};
  table.names[path + "moe.experts.down"] = {{moe + "output_linear.weight"}, {moe + "experts.down_proj"}};
  for (const std::string part : {"moe.shared.", "ffn."}) {
    table.names[path + part + "gate"] = {{shared + "input_linear.weight", Piece::first_half}};
    table.names[path + part + "up"] = {{shared + "input_linear.weight", Piece::second_half}};
    table.names[path + part + "down"] = {{shared + "output_linear.weight"}};
  }
  ssm::add_mamba2_names(table, {layer + "mamba."});
  return table;
}

}  // namespace

const Family kGraniteMoeHybrid = {
    .model_type = "granitemoehybrid",
    .architecture = "granitehybrid",
    .class_name = "GraniteMoeHybridForCausalLM",
    .from_config = granite_from_config,
    .from_gguf = granite_from_gguf,
    .hugging_face_names = granite_names,
};

}  // namespace coterie::families
