#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/known/families.h"

// Hunyuan-A13B (Tencent 2025): Llama's block with norms of queries and keys after their rotary positions, experts of
// softmax weights over their sum, and a shared expert of the same width. Its "dynamic" scaling with an alpha is a base
// that does not depend on the length.
namespace coterie::families {

namespace {

using layers::AttentionSpec;
using layers::MoeSpec;

/// A number for all layers, or one for each.
std::vector<int64_t> by_layer(ConfigReader& config, std::string_view key, size_t layers, int64_t otherwise) {
  const base::Json* value = config.keys.value(key);
  if (!value || !value->is_array()) return std::vector<int64_t>(layers, config.keys.integer(key, otherwise));
  std::vector<int64_t> values = config.keys.integers(key);
  if (values.size() != layers)
    base::fail(base::ErrorKind::bad_input, config.keys.where(), "{} has {} entries for {} layers", key, values.size(),
               layers);
  return values;
}

void expect_everywhere(ConfigReader& config, std::string_view key, size_t layers, int64_t value) {
  for (const int64_t found : by_layer(config, key, layers, value))
    if (found != value)
      base::fail(base::ErrorKind::unsupported, config.keys.where(), "{} is {} in a layer: expected {}", key, found,
                 value);
}

layers::RopeSpec rotary(ConfigReader& config, int64_t head_dim, int64_t context) {
  const base::Json *scaling = config.keys.object("rope_scaling"), *parameters = config.keys.object("rope_parameters");
  const base::Json* chosen = scaling && !scaling->empty() ? scaling : parameters;
  const auto type = [&] { return chosen->value("rope_type", chosen->value("type", "default")); };
  const base::Json alpha = chosen ? chosen->value("alpha", base::Json()) : base::Json();
  if (!alpha.is_number() || alpha == 0 || type() != "dynamic") return config.rope(head_dim, context, {});
  const double theta = config.keys.number("rope_theta", 10000.0);
  layers::RopeSpec rope;
  rope.dims = head_dim, rope.original_context = context;
  rope.theta = chosen->value("rope_theta", theta) *
               std::pow(alpha.get<double>(), static_cast<double>(head_dim) / static_cast<double>(head_dim - 2));
  // Written beside alpha, and read by nothing.
  for (const auto& [key, value] : chosen->items())
    if (key != "alpha" && key != "type" && key != "rope_type" && key != "rope_theta" && key != "factor" &&
        key != "beta_fast" && key != "beta_slow" && key != "mscale" && key != "mscale_all_dim")
      base::fail(base::ErrorKind::unsupported, config.keys.where(), "key \"{}\" of the rotary scaling is not known",
                 key);
  return rope;
}

// What published configs say and the reference does not read.
void check_published_keys(ConfigReader& config, const ModelSpec& spec) {
  const size_t layers = spec.blocks.size();
  expect_everywhere(config, "moe_intermediate_size", layers, first_moe(spec)->hidden);
  expect_everywhere(config, "num_shared_expert", layers, 1);
  config.expect("attention_head_dim", std::get<AttentionSpec>(spec.blocks.front().mixer).head_dim);
  config.expect("moe_layer_num_skipped", 0);
  for (const char* key : {"use_mixed_mlp_moe", "use_qk_norm", "norm_topk_prob", "use_rotary_pos_emb"})
    config.expect(key, true);
  for (const char* key :
       {"use_cla", "mlp_bias", "use_mla", "add_classification_head", "group_limited_greedy", "n_group", "topk_group",
        "routed_scaling_factor", "position_embedding_xdrope", "moe_drop_tokens"})
    config.expect(key, false);
  config.expect("num_media_embeds", 0);
  config.keys.inert({"cla_share_factor",
                     "eod_token_id",
                     "mask_init_id",
                     "pool_type",
                     "skip_cls_token",
                     "moe_random_routing_dropped_token",
                     "dense_list",
                     "class_num",
                     "org_vocab_size",
                     "text_start_id",
                     "text_end_id",
                     "im_start_id",
                     "im_end_id",
                     "im_newline_id",
                     "image_token_id",
                     "video_start_id",
                     "video_end_id",
                     "norm_type",
                     "kv_lora_rank",
                     "q_lora_rank",
                     "qk_nope_head_dim",
                     "qk_rope_head_dim",
                     "v_head_dim",
                     "anyres_pooling_size",
                     "anyres_vit_max_image_size",
                     "anyres_vit_two_views",
                     "capacity_factor",
                     "max_image_size",
                     "vit_type",
                     "vit_path"});
}

ModelSpec from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 290943,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .hidden = 11008,
                                   .context = 2048,
                                   .eps = 1e-5,
                                   .rope_by_layer = true});
  config.set_attention_biases(spec);
  const layers::RopeSpec rope =
      rotary(config, std::get<AttentionSpec>(spec.blocks.front().mixer).head_dim, spec.context);
  MoeSpec moe;
  moe.router.experts = config.experts(1);
  moe.router.renormalise = true;
  const size_t layers = spec.blocks.size();
  const int64_t chosen = config.keys.has("moe_topk") ? 1 : config.experts_per_token(1);
  const std::vector<int64_t> each = by_layer(config, "moe_topk", layers, chosen);
  config.keys.inert({"num_experts_per_tok"});
  for (size_t i = 0; i < layers; ++i) {
    auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    attention.rope = rope;
    attention.qk_norm = AttentionSpec::QkNorm::per_head, attention.qk_norm_after_rope = true;
    moe.router.experts_per_token = each[i];
    moe.shared_hidden = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).hidden;
    turn_into_experts(spec.blocks[i], moe);
  }
  check_published_keys(config, spec);
  return spec;
}

ModelSpec from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::half);
  const int64_t hidden = metadata.integer("expert_feed_forward_length", metadata.integer("feed_forward_length"));
  const int64_t shared = hidden * metadata.integer("expert_shared_count", 1);
  metadata.set_experts(spec, {.hidden = hidden,
                              .shared_hidden = metadata.integer("expert_shared_feed_forward_length", shared),
                              .renormalise = true});
  for (BlockSpec& block : spec.blocks) {
    auto& attention = std::get<AttentionSpec>(block.mixer);
    attention.qk_norm = AttentionSpec::QkNorm::per_head, attention.qk_norm_after_rope = true;
  }
  return spec;
}

NameTable names() {
  NameTable table = hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj");
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  table.names[path + "moe.router"] = {{layer + "mlp.gate.wg.weight"}};
  for (const std::string part : {"gate", "up", "down"})
    table.names[path + "moe.shared." + part] = {{layer + "mlp.shared_mlp." + part + "_proj.weight"}};
  table.names[path + "attention.q_norm"] = {{layer + "self_attn.query_layernorm.weight"}};
  table.names[path + "attention.k_norm"] = {{layer + "self_attn.key_layernorm.weight"}};
  return table;
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  config.attention_bias();
  const MoeSpec& moe = *first_moe(spec);
  config.json["num_experts"] = moe.router.experts;
  config.json["moe_topk"] = moe.router.experts_per_token;
  config.json["intermediate_size"] = moe.hidden;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  if (first_moe(spec)) metadata.put("expert_shared_count", uint64_t{1});
}

}  // namespace

const Family kHunyuanV1Moe = {
    .model_type = "hunyuan_v1_moe",
    .architecture = "hunyuan-moe",
    .class_name = "HunYuanMoEV1ForCausalLM",
    .from_config = from_config,
    .from_gguf = from_gguf,
    .hugging_face_names = names,
    .to_config = to_config,
    .to_gguf = to_gguf,
};

}  // namespace coterie::families
