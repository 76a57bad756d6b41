#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/deepseek.h"
#include "families/known/families.h"
#include "layers/attention/rope.h"

// DeepSeek-V2 (arXiv:2405.04434) and DeepSeek-V3 (arXiv:2412.19437): latent attention, fine-grained experts beside
// shared ones, dense first layers. V2 chooses by softmax, V3 by sigmoid with a bias that balances the load; both may
// look into some groups of experts only.
namespace coterie::families {

namespace {

using base::ErrorKind;
using base::fail;
using Router = layers::RouterSpec;

constexpr deepseek::LatentDefaults kLatent = {
    .q_rank = 1536, .kv_rank = 512, .nope_dim = 128, .rope_dim = 64, .value_dim = 128};

/// The norms of the latents take the reference's default, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;

double yarn_magnitude(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; }

/// 1 / sqrt(width of a key), and YaRN's second correction: once for queries and once for keys.
float score_scale(const layers::LatentAttentionSpec& mla, double mscale_all_dim) {
  const double scale = 1 / std::sqrt(static_cast<double>(mla.head_dim()));
  if (mla.rope.scaling != layers::RopeSpec::Scaling::yarn || mscale_all_dim == 0) return static_cast<float>(scale);
  const double magnitude = yarn_magnitude(mla.rope.factor, mscale_all_dim);
  return static_cast<float>(scale * magnitude * magnitude);
}

/// n_group and topk_group, which are null where there are no groups.
void set_groups(ConfigReader& config, Router& router, int64_t groups, int64_t kept) {
  router.groups = config.is_null("n_group") ? 1 : config.keys.integer("n_group", groups);
  router.groups_kept = config.is_null("topk_group") ? router.groups : config.keys.integer("topk_group", kept);
  config.keys.inert({"n_group", "topk_group"});
}

Router v2_router(ConfigReader& config) {
  Router router;
  router.experts = config.experts(64);
  router.experts_per_token = config.experts_per_token(0);
  router.scale = static_cast<float>(config.keys.number("routed_scaling_factor", 1.0));
  const std::string method = config.keys.string("topk_method", "greedy");
  if (method == "group_limited_greedy") {
    set_groups(config, router, 1, 1);
    router.group_score = Router::GroupScore::best;
  } else if (method != "greedy") {
    fail(ErrorKind::unsupported, config.keys.where(),
         "topk_method \"{}\" is not supported for model_type deepseek_v2: expected greedy or group_limited_greedy",
         method);
  }
  config.keys.inert({"n_group", "topk_group"});
  if (const std::string score = config.keys.string("scoring_func", "softmax"); score != "softmax")
    fail(ErrorKind::unsupported, config.keys.where(), "scoring_func \"{}\": model_type deepseek_v2 has softmax", score);
  if (config.keys.boolean("norm_topk_prob", false))
    config.warnings.push_back(config.keys.where() +
                              ": norm_topk_prob has no effect for model_type deepseek_v2, as in the reference");
  return router;
}

ModelSpec v2_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 102400,
                                   .width = 4096,
                                   .layers = 32,
                                   .heads = 32,
                                   .head_dim = config.keys.integer("qk_rope_head_dim", 64),
                                   .hidden = 11008,
                                   .context = 2048});
  if (!config.keys.boolean("rope_interleave", true))
    fail(ErrorKind::unsupported, config.keys.where(), "rope_interleave false: model_type deepseek_v2 interleaves");
  deepseek::set_attention(config, spec, true, kLatent);
  layers::MoeSpec moe;
  moe.router = v2_router(config);
  moe.hidden = config.keys.integer("moe_intermediate_size", 1407);
  deepseek::set_experts(config, spec, moe, {.shared = 2, .dense_layers = 0});
  return spec;
}

void v2_to_config(const ModelSpec& spec, ConfigWriter& config) {
  deepseek::latent_to_config(spec, config);
  config.json["topk_method"] = first_moe(spec)->router.groups > 1 ? "group_limited_greedy" : "greedy";
}

constexpr Shape kV2Shapes[] = {
    {"deepseek-v2-lite", R"({"model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048,
      "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16,
      "num_key_value_heads": 16, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
      "first_k_dense_replace": 1, "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128,
      "qk_rope_head_dim": 64, "v_head_dim": 128, "topk_method": "greedy", "routed_scaling_factor": 1.0,
      "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000,
      "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                       "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}})"},
};

}  // namespace

namespace deepseek {

void set_attention(ConfigReader& config, ModelSpec& spec, bool interleaved, const LatentDefaults& defaults) {
  layers::LatentAttentionSpec mla;
  const auto& plain = std::get<layers::AttentionSpec>(spec.blocks.front().mixer);
  if (plain.kv_heads != plain.heads)
    fail(ErrorKind::unsupported, config.keys.where(),
         "num_key_value_heads {} differs from num_attention_heads {}: latent attention has no groups of queries",
         plain.kv_heads, plain.heads);
  mla.heads = plain.heads;
  mla.q_rank = config.is_null("q_lora_rank") ? 0 : config.keys.integer("q_lora_rank", defaults.q_rank);
  config.keys.inert({"q_lora_rank", "qk_head_dim"});
  mla.kv_rank = config.keys.integer("kv_lora_rank", defaults.kv_rank);
  mla.nope_dim = config.keys.integer("qk_nope_head_dim", defaults.nope_dim);
  mla.rope_dim = config.keys.integer("qk_rope_head_dim", defaults.rope_dim);
  mla.value_dim = config.keys.integer("v_head_dim", defaults.value_dim);
  mla.bias = config.keys.boolean("attention_bias", false);
  mla.norm_eps = kLatentNormEps;
  mla.rope = *plain.rope;
  mla.rope.dims = mla.rope_dim;
  mla.rope.style = interleaved ? ops::RopeTable::Style::interleaved : ops::RopeTable::Style::half;
  mla.scale = score_scale(mla, mla.rope.mscale_all_dim.value_or(0));
  for (BlockSpec& block : spec.blocks) block.mixer = mla;
}

ModelSpec v3_from_config(ConfigReader& config) {
  ModelSpec spec = config.decoder({.vocabulary = 129280,
                                   .width = 7168,
                                   .layers = 61,
                                   .heads = 128,
                                   .kv_heads = 128,
                                   .head_dim = config.keys.integer("qk_rope_head_dim", 64),
                                   .hidden = 18432,
                                   .context = 4096});
  set_attention(config, spec, config.keys.boolean("rope_interleave", true), kLatent);
  layers::MoeSpec moe;
  moe.router =
      sigmoid_router(config, {.experts = 256, .experts_per_token = 8, .groups = 8, .groups_kept = 4, .scale = 2.5});
  moe.hidden = config.keys.integer("moe_intermediate_size", 2048);
  set_experts(config, spec, moe, {.shared = 1, .dense_layers = 3});
  set_prediction_layers(config, spec, 1);
  return spec;
}

/// llama.cpp's newer files describe what the cache holds (one head of kv_lora_rank + rope) as key_length, and the heads
/// as *_mla; older ones have the heads' widths as key_length and value_length.
ModelSpec latent_from_gguf(MetadataReader& metadata) {
  ModelSpec spec = metadata.decoder(ops::RopeTable::Style::interleaved);
  const auto plain = std::get<layers::AttentionSpec>(spec.blocks.front().mixer);
  layers::LatentAttentionSpec mla;
  mla.heads = plain.heads;
  mla.q_rank = metadata.integer("attention.q_lora_rank", 0);
  mla.kv_rank = metadata.integer("attention.kv_lora_rank");
  mla.rope = *plain.rope;
  mla.rope_dim = mla.rope.dims;
  mla.nope_dim = metadata.integer("attention.key_length_mla", plain.head_dim) - mla.rope_dim;
  mla.value_dim = metadata.integer("attention.value_length_mla", plain.value_dim);
  mla.bias = metadata.has_tensor("blk.0.attn_kv_a_mqa.bias");
  mla.norm_eps = kLatentNormEps;
  // A tenth of mscale_all_dim. mscale itself is in no key: it is taken to be the same, as in all published configs, so
  // that the magnitude of the rotary part is one.
  const double mscale_all_dim = metadata.number("rope.scaling.yarn_log_multiplier", 0.0) * 10;
  if (mscale_all_dim != 0 && mla.rope.scaling == layers::RopeSpec::Scaling::yarn)
    mla.rope.attention_factor = metadata.number("rope.scaling.attn_factor", 1.0);
  mla.scale = score_scale(mla, mscale_all_dim);
  for (BlockSpec& block : spec.blocks) block.mixer = mla;

  metadata.integer("leading_dense_block_count", 0);  // which layers have a router says it
  const int64_t hidden = metadata.integer("expert_feed_forward_length", 0);
  if (metadata.integer("expert_count", 0) > 0) {
    const bool biased = has_selection_bias(metadata, spec);
    metadata.set_experts(spec, {.hidden = hidden,
                                .shared_hidden = hidden * metadata.integer("expert_shared_count", 0),
                                .score = biased ? Router::Score::sigmoid : Router::Score::softmax,
                                .selection_bias = biased,
                                .groups = true});
  }
  drop_prediction_layers(metadata, spec);
  return spec;
}

NameTable latent_names() {
  NameTable table = expert_names();
  const std::string layer = "model.layers.{layer}.self_attn.", path = "blocks.{layer}.latent.";
  const std::pair<const char*, const char*> linear[] = {
      {"q", "q_proj"}, {"q_a", "q_a_proj"}, {"q_b", "q_b_proj"}, {"kv_a", "kv_a_proj_with_mqa"}, {"o", "o_proj"}};
  for (const auto& [ours, theirs] : linear) {
    table.names[path + ours] = {{layer + theirs + ".weight"}};
    table.names[path + ours + ".bias"] = {{layer + theirs + ".bias"}};
  }
  table.names[path + "q_a_norm"] = {{layer + "q_a_layernorm.weight"}};
  table.names[path + "kv_a_norm"] = {{layer + "kv_a_layernorm.weight"}};
  table.names[path + "k_b"] = {{layer + "kv_b_proj.weight", Piece::head_keys}};
  table.names[path + "v_b"] = {{layer + "kv_b_proj.weight", Piece::head_values}};
  return table;
}

void latent_to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.decoder();
  const auto& mla = std::get<layers::LatentAttentionSpec>(spec.blocks.front().mixer);
  config.json["q_lora_rank"] = mla.q_rank > 0 ? base::Json(mla.q_rank) : base::Json(nullptr);
  config.json["kv_lora_rank"] = mla.kv_rank;
  config.json["qk_nope_head_dim"] = mla.nope_dim, config.json["qk_rope_head_dim"] = mla.rope_dim;
  config.json["v_head_dim"] = mla.value_dim;
  config.json["attention_bias"] = mla.bias;
  experts_to_config(spec, config);
  if (mla.rope.scaling != layers::RopeSpec::Scaling::yarn) return;
  // The scores' scale is that of the width times the square of 0.1 mscale_all_dim ln(factor) + 1.
  const double magnitude = std::sqrt(static_cast<double>(mla.scale) * std::sqrt(static_cast<double>(mla.head_dim())));
  const double mscale = (magnitude - 1) / (0.1 * std::log(mla.rope.factor));
  if (std::abs(magnitude - 1) < 1e-6) return;
  base::Json& scaling = config.json["rope_scaling"];
  scaling["mscale_all_dim"] = std::round(mscale * 1e4) / 1e4;
  // Beside it the rotary part's own magnitude is said by mscale, or outright.
  if (std::abs(static_cast<double>(layers::rope_table(mla.rope).magnitude) - 1) > 1e-6) return;
  scaling["mscale"] = scaling["mscale_all_dim"];
  scaling.erase("attention_factor");
}

void v3_to_config(const ModelSpec& spec, ConfigWriter& config) {
  latent_to_config(spec, config);
  config.json["num_nextn_predict_layers"] = 0;
}

bool has_experts(const ModelSpec& spec) { return first_moe(spec) != nullptr; }

/// moe_layer_freq is honoured by DeepSeek's own code and ignored by transformers, so a file may have experts where the
/// config says there are none: the file knows.
void find_sparse_layers(ModelSpec& spec, const checkpoint::TensorSource& source, const NameTable& names,
                        std::vector<std::string>& warnings) {
  const auto sparse = std::find_if(spec.blocks.begin(), spec.blocks.end(), [](const BlockSpec& block) {
    return std::holds_alternative<layers::MoeSpec>(block.ffn);
  });
  const std::vector<NameInFile>* router = names.find("blocks.{layer}.moe.router");
  if (sparse == spec.blocks.end() || !router) return;
  const layers::MoeSpec moe = std::get<layers::MoeSpec>(sparse->ffn);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const std::string name = expand(router->front().pattern, static_cast<int64_t>(i));
    if (!std::holds_alternative<layers::DenseFfnSpec>(spec.blocks[i].ffn) || !source.find(name)) continue;
    spec.blocks[i].ffn = moe;
    warnings.push_back(
        fmt::format("{}: by the config layer {} is dense, but there is {}; its experts are used, as the reference does",
                    source.where(), i, name));
  }
}

}  // namespace deepseek

const Family kDeepseekV2 = {
    .model_type = "deepseek_v2",
    .architecture = "deepseek2",
    .class_name = "DeepseekV2ForCausalLM",
    .from_config = v2_from_config,
    .from_gguf = deepseek::latent_from_gguf,
    .hugging_face_names = deepseek::latent_names,
    .to_config = v2_to_config,
    .to_gguf = deepseek::experts_to_gguf,
    .fit_to_tensors = deepseek::find_sparse_layers,
    .shapes = kV2Shapes,
    .says = deepseek::has_experts,
};
const Family kDeepseekV3 = {
    .model_type = "deepseek_v3",
    .architecture = "deepseek2",
    .class_name = "DeepseekV3ForCausalLM",
    .from_config = deepseek::v3_from_config,
    .from_gguf = deepseek::latent_from_gguf,
    .hugging_face_names = deepseek::latent_names,
    .to_config = deepseek::v3_to_config,
    .to_gguf = deepseek::experts_to_gguf,
    .fit_to_tensors = deepseek::find_sparse_layers,
    .says = deepseek::has_experts,
};

}  // namespace coterie::families
