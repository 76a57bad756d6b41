#include "families/known/kda.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "families/known/deepseek.h"

namespace coterie::families::kda {

using base::ErrorKind;
using base::fail;

/// The norms of the latents take the reference's default, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;

ModelSpec decoder(ConfigReader& config, ConfigDefaults defaults) {
  if (!config.keys.has("max_position_embeddings")) defaults.context_key = "model_max_length";
  ModelSpec spec = config.decoder(defaults);
  config.integer_of({"model_max_length", "max_position_embeddings"}, spec.context);
  return spec;
}

layers::LatentAttentionSpec latent(ConfigReader& config, const ModelSpec& spec) {
  layers::LatentAttentionSpec mla;
  const auto& plain = std::get<layers::AttentionSpec>(spec.blocks.front().mixer);
  if (plain.kv_heads != plain.heads)
    fail(ErrorKind::unsupported, config.keys.where(),
         "num_key_value_heads {} differs from num_attention_heads {}: latent attention has no groups of queries",
         plain.kv_heads, plain.heads);
  mla.heads = plain.heads;
  mla.q_rank = config.is_null("q_lora_rank") ? 0 : config.keys.integer("q_lora_rank", 0);
  config.keys.inert({"q_lora_rank", "qk_head_dim"});
  mla.kv_rank = config.keys.integer("kv_lora_rank", 512);
  mla.nope_dim = config.keys.integer("qk_nope_head_dim", 128);
  mla.rope_dim = config.keys.integer("qk_rope_head_dim", 64);
  mla.value_dim = config.keys.integer("v_head_dim", 128);
  mla.bias = config.keys.boolean("attention_bias", false);
  mla.norm_eps = kLatentNormEps;
  if (plain.rope) mla.rope = *plain.rope;
  mla.positions = plain.rope.has_value();
  mla.rope.dims = mla.rope_dim, mla.rope.style = ops::RopeTable::Style::interleaved;
  double scale = 1 / std::sqrt(static_cast<double>(mla.head_dim()));
  // YaRN's second correction, once for queries and once for keys.
  if (const double all = mla.rope.mscale_all_dim.value_or(0);
      mla.rope.scaling == layers::RopeSpec::Scaling::yarn && all != 0 && mla.rope.factor > 1)
    scale *= std::pow(0.1 * all * std::log(mla.rope.factor) + 1, 2);
  mla.scale = static_cast<float>(scale);
  return mla;
}

void set_mixers(ConfigReader& config, ModelSpec& spec, const layers::DeltaRuleSpec& delta,
                const layers::LatentAttentionSpec& attention, base::FunctionRef<bool(int64_t layer)> full) {
  const std::vector<std::string> types = config.keys.strings("layer_types");
  if (!types.empty() && types.size() != spec.blocks.size())
    fail(ErrorKind::bad_input, config.keys.where(), "layer_types has {} entries for {} layers", types.size(),
         spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    if (!types.empty() && types[i] != "linear_attention" && types[i] != "full_attention")
      fail(ErrorKind::unsupported, config.keys.where(),
           "layer_types[{}] is \"{}\": expected linear_attention or full_attention", i, types[i]);
    if (types.empty() ? full(static_cast<int64_t>(i)) : types[i] == "full_attention")
      spec.blocks[i].mixer = attention;
    else
      spec.blocks[i].mixer = delta;
  }
}

void set_experts(ConfigReader& config, ModelSpec& spec, const ExpertDefaults& defaults) {
  using Router = layers::RouterSpec;
  layers::MoeSpec moe;
  moe.router.score = Router::Score::sigmoid;
  moe.router.selection_bias = true;
  moe.router.group_score = Router::GroupScore::best_two;
  moe.router.experts = config.experts(defaults.experts);
  moe.router.experts_per_token = config.experts_per_token(8);
  moe.router.groups = config.integer_of({"num_expert_group", "n_group"}, defaults.groups);
  moe.router.groups_kept =
      config.is_null("topk_group") ? moe.router.groups : config.keys.integer("topk_group", defaults.groups_kept);
  config.keys.inert({"topk_group"});
  moe.router.renormalise = config.keys.boolean("moe_renormalize", config.keys.boolean("norm_topk_prob", true));
  moe.router.scale = static_cast<float>(config.keys.number("routed_scaling_factor", defaults.scale));
  moe.hidden = config.keys.integer("moe_intermediate_size", defaults.hidden);
  moe.shared_hidden = moe.hidden * config.integer_of({"num_shared_experts", "n_shared_experts"}, 1);
  for (const auto& [key, expected] :
       {std::pair("moe_router_activation_func", "sigmoid"), std::pair("score_function", "sigmoid"),
        std::pair("scoring_func", "sigmoid"), std::pair("topk_method", "noaux_tc")})
    if (const std::string found = config.keys.string(key, expected); found != expected)
      fail(ErrorKind::unsupported, config.keys.where(), "{} is \"{}\": expected \"{}\"", key, found, expected);
  if (const int64_t step = config.keys.integer("moe_layer_freq", 1); step != 1)
    fail(ErrorKind::unsupported, config.keys.where(), "moe_layer_freq is {}: expected 1", step);
  if (!config.keys.boolean("use_grouped_topk", true) && moe.router.groups > 1)
    fail(ErrorKind::unsupported, config.keys.where(), "use_grouped_topk is false, but there are {} groups of experts",
         moe.router.groups);
  const int64_t dense = config.keys.integer("first_k_dense_replace", defaults.dense_layers);
  const std::vector<std::string> types = config.keys.strings("mlp_layer_types");
  if (!types.empty() && types.size() != spec.blocks.size())
    fail(ErrorKind::bad_input, config.keys.where(), "mlp_layer_types has {} entries for {} layers", types.size(),
         spec.blocks.size());
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    if (!types.empty() && types[i] != "dense" && types[i] != "sparse")
      fail(ErrorKind::unsupported, config.keys.where(), "mlp_layer_types[{}] is \"{}\": expected dense or sparse", i,
           types[i]);
    if (types.empty() ? static_cast<int64_t>(i) < dense : types[i] == "dense") continue;
    moe.activation = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).activation;
    spec.blocks[i].ffn = moe;
  }
}

void add_names(NameTable& table, const std::string& layer, const std::string& out) {
  const std::string delta = "blocks.{layer}.delta.", latent = "blocks.{layer}.latent.";
  for (const std::string part : {"q", "k", "v"}) {
    table.names[delta + part] = {{layer + part + "_proj.weight"}};
    table.names[delta + part + "_conv"] = {{layer + part + "_conv1d.weight", Piece::whole, false, Form::loose_filters}};
  }
  const std::pair<const char*, const char*> names[] = {
      {"beta", "b_proj.weight"},      {"decay", "f_proj.weight"},    {"decay_a", "f_a_proj.weight"},
      {"decay_b", "f_b_proj.weight"}, {"decay.bias", "dt_bias"},     {"gate", "g_proj.weight"},
      {"gate_a", "g_a_proj.weight"},  {"gate_b", "g_b_proj.weight"}, {"norm", "o_norm.weight"}};
  for (const auto& [ours, theirs] : names) table.names[delta + ours] = {{layer + theirs}};
  table.names[delta + "out"] = {{layer + out + ".weight"}};
  table.names[delta + "a_log"] = {{layer + "A_log"}};
  const std::pair<const char*, std::string> linear[] = {{"q", "q_proj"},     {"q_a", "q_a_proj"},
                                                        {"q_b", "q_b_proj"}, {"kv_a", "kv_a_proj_with_mqa"},
                                                        {"o", out},          {"gate", "g_proj"}};
  for (const auto& [ours, theirs] : linear) {
    table.names[latent + ours] = {{layer + theirs + ".weight"}};
    table.names[latent + ours + ".bias"] = {{layer + theirs + ".bias"}};
  }
  table.names[latent + "q_a_norm"] = {{layer + "q_a_layernorm.weight"}};
  table.names[latent + "kv_a_norm"] = {{layer + "kv_a_layernorm.weight"}};
  table.names[latent + "k_b"] = {{layer + "kv_b_proj.weight", Piece::head_keys}};
  table.names[latent + "v_b"] = {{layer + "kv_b_proj.weight", Piece::head_values}};
}

ModelSpec from_gguf(MetadataReader& metadata, layers::DeltaRuleSpec delta, bool positions, bool head_gate) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::interleaved);
  const auto plain = std::get<layers::AttentionSpec>(spec.blocks.front().mixer);
  delta.key_heads = delta.value_heads = plain.heads;
  delta.key_dim = delta.value_dim = metadata.integer("kda.head_dim");
  delta.conv_width = metadata.integer("ssm.conv_kernel");
  delta.norm_eps = spec.final_norm.eps;
  if (delta.decay_rank > 0) delta.decay_rank = delta.gate_rank = delta.key_dim;
  layers::LatentAttentionSpec mla;
  mla.heads = plain.heads;
  mla.q_rank = metadata.integer("attention.q_lora_rank", 0);
  mla.kv_rank = metadata.integer("attention.kv_lora_rank");
  mla.rope = *plain.rope, mla.positions = positions;
  mla.rope_dim = mla.rope.dims;
  mla.nope_dim = metadata.integer("attention.key_length_mla") - mla.rope_dim;
  mla.value_dim = metadata.integer("attention.value_length_mla");
  mla.norm_eps = kLatentNormEps;
  mla.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(mla.head_dim())));
  if (head_gate) mla.gate.shape = layers::OutputGate::Shape::per_head;
  if (mla.rope.scaling != layers::RopeSpec::Scaling::none)
    fail(ErrorKind::unsupported, "rope.scaling.type",
         "a scaled rotary embedding is not supported for the architecture");
  for (BlockSpec& block : spec.blocks) {
    if (std::get<layers::AttentionSpec>(block.mixer).kv_heads > 0)
      block.mixer = mla;
    else
      block.mixer = delta;
  }
  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  const int64_t hidden = metadata.integer("expert_feed_forward_length");
  const int64_t shared = hidden * metadata.integer("expert_shared_count", 1);
  metadata.set_experts(spec, {.hidden = hidden,
                              .shared_hidden = metadata.integer("expert_shared_feed_forward_length", shared),
                              .renormalise = true,
                              .score = layers::RouterSpec::Score::sigmoid,
                              .selection_bias = true,
                              .groups = true});
  return spec;
}

void to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  deepseek::experts_to_gguf(spec, metadata);
  std::vector<uint64_t> kv_heads;
  for (const BlockSpec& block : spec.blocks) {
    const auto* delta = std::get_if<layers::DeltaRuleSpec>(&block.mixer);
    kv_heads.push_back(delta ? 0 : 1);
    if (!delta) continue;
    metadata.put("kda.head_dim", static_cast<uint64_t>(delta->key_dim));
    metadata.put("ssm.conv_kernel", static_cast<uint64_t>(delta->conv_width));
  }
  metadata.put("attention.head_count_kv", kv_heads);
}

void to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  std::vector<std::string> types;
  for (const BlockSpec& block : spec.blocks) {
    const auto* delta = std::get_if<layers::DeltaRuleSpec>(&block.mixer);
    types.emplace_back(delta ? "linear_attention" : "full_attention");
    if (delta) {
      config.json["linear_head_dim"] = delta->key_dim, config.json["linear_num_heads"] = delta->key_heads;
      config.json["linear_conv_kernel_dim"] = delta->conv_width;
      continue;
    }
    const auto& mla = std::get<layers::LatentAttentionSpec>(block.mixer);
    config.json["q_lora_rank"] = mla.q_rank > 0 ? base::Json(mla.q_rank) : base::Json(nullptr);
    config.json["kv_lora_rank"] = mla.kv_rank, config.json["v_head_dim"] = mla.value_dim;
    config.json["qk_nope_head_dim"] = mla.nope_dim, config.json["qk_rope_head_dim"] = mla.rope_dim;
  }
  config.json["layer_types"] = types;
  config.expert_layers();
  const layers::MoeSpec* const moe = first_moe(spec);
  if (!moe)
    fail(ErrorKind::unsupported, "config.json", "its model_types have experts in some layer, this model has none");
  config.json["num_experts"] = moe->router.experts, config.json["moe_intermediate_size"] = moe->hidden;
  config.json["num_shared_experts"] = moe->shared_hidden / std::max<int64_t>(moe->hidden, 1);
  config.json["topk_group"] = moe->router.groups_kept;
  config.json["routed_scaling_factor"] = decimal(moe->router.scale);
}

}  // namespace coterie::families::kda
