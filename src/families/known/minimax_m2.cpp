#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"

// MiniMax-M2 (MiniMax 2025): RMSNorm over the whole query and key projections, rotary positions of a part of each head,
// fine-grained experts in every layer chosen by sigmoids with a bias of selection, weights over their bare sum.
namespace coterie::families {

namespace {

using layers::AttentionSpec;

layers::RouterSpec router_of(int64_t experts, int64_t chosen) {
  layers::RouterSpec router;
  router.experts = experts, router.experts_per_token = chosen;
  router.score = layers::RouterSpec::Score::sigmoid;
  router.selection_bias = true;
  router.renormalise = true, router.renormalise_epsilon = 0;
  return router;
}

// What published configs say beside the keys that the reference reads.
void check_published_keys(ConfigReader& config, size_t layers) {
  config.expect("use_qk_norm", true);
  config.expect("qk_norm_type", "per_layer");
  config.expect("scoring_func", "sigmoid");
  config.expect("use_routing_bias", true);
  config.expect("shared_intermediate_size", 0);
  config.expect("attn_type_list", std::vector<int>(layers, 1));
  config.keys.inert({"use_mtp", "num_mtp_modules", "mtp_transformer_layers", "shared_moe_mode", "mlp_intermediate_size",
                     "max_model_len", "layernorm_full_attention_beta", "layernorm_linear_attention_beta",
                     "layernorm_mlp_beta"});
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 200064,
                                   .width = 3072,
                                   .layers = 62,
                                   .heads = 48,
                                   .kv_heads = 8,
                                   .head_dim = 128,
                                   .hidden = 1536,
                                   .context = 196608,
                                   .rope_by_layer = true});
  check_published_keys(config, spec.blocks.size());
  const auto& plain = std::get<AttentionSpec>(spec.blocks.front().mixer);
  // Published files give the rotated dimensions of a head; partial_rotary_factor wins over them.
  const int64_t dims = config.keys.integer("rotary_dim", plain.head_dim);
  const layers::RopeSpec rope =
      config.rope(plain.head_dim, spec.context,
                  {.theta = 5e6, .partial_rotary = static_cast<double>(dims) / static_cast<double>(plain.head_dim)});
  layers::MoeSpec moe;
  moe.router = router_of(config.experts(256), config.experts_per_token(8));
  moe.jitter = static_cast<float>(config.keys.number("router_jitter_noise", 0));
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.qk_norm = AttentionSpec::QkNorm::full_width;
    attention.rope = rope;
    turn_into_experts(block, moe);
  }
  spec.router_aux_loss = config.router_aux_loss(0.001);
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  metadata.set_experts(spec, {.hidden = metadata.integer("expert_feed_forward_length"),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = deepseek::has_selection_bias(metadata, spec)});
  for (BlockSpec& block : spec.blocks) {
    std::get<AttentionSpec>(block.mixer).qk_norm = AttentionSpec::QkNorm::full_width;
    if (auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) moe->router.renormalise_epsilon = 0;
  }
  return spec;
}

NameTable names() {
  NameTable table = hugging_face_moe_names("block_sparse_moe", "w1", "w3", "w2");
  const std::string layer = "model.layers.{layer}.";
  table.names["blocks.{layer}.moe.router.selection_bias"] = {{layer + "block_sparse_moe.e_score_correction_bias"},
                                                             {layer + "mlp.e_score_correction_bias"}};
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.experts("num_local_experts");
  config.json["intermediate_size"] = first_moe(spec)->hidden;
  const AttentionSpec& attention = config.attention();
  config.json["rotary_dim"] = attention.rope->dims;
  config.json["partial_rotary_factor"] =
      static_cast<double>(attention.rope->dims) / static_cast<double>(attention.head_dim);
}

}  // namespace

const Family kMiniMaxM2 = {
    .model_type = "minimax_m2",
    .architecture = "minimax-m2",
    .class_name = "MiniMaxM2ForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
};

}  // namespace coterie::families
