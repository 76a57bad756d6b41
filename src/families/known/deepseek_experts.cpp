#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "families/known/deepseek.h"

namespace coterie::families::deepseek {

using base::ErrorKind;
using base::fail;

layers::RouterSpec sigmoid_router(ConfigReader& config, const RouterDefaults& defaults) {
  layers::RouterSpec router;
  router.score = layers::RouterSpec::Score::sigmoid;
  router.selection_bias = true;
  router.group_score = layers::RouterSpec::GroupScore::best_two;
  router.experts = config.experts(defaults.experts);
  router.experts_per_token = config.experts_per_token(defaults.experts_per_token);
  router.groups = config.is_null("n_group") ? 1 : config.keys.integer("n_group", defaults.groups);
  router.groups_kept =
      config.is_null("topk_group") ? router.groups : config.keys.integer("topk_group", defaults.groups_kept);
  router.renormalise = config.keys.boolean("norm_topk_prob", defaults.renormalise);
  router.scale = static_cast<float>(config.keys.number("routed_scaling_factor", defaults.scale));
  config.keys.inert({"n_group", "topk_group"});
  for (const auto& [key, expected] : {std::pair("scoring_func", "sigmoid"), std::pair("topk_method", "noaux_tc")})
    if (const std::string found = config.keys.string(key, expected);
        found != expected && (key != std::string_view("scoring_func") || found != defaults.score_alias))
      fail(ErrorKind::unsupported, config.keys.where(), "{} is \"{}\": expected \"{}\"", key, found, expected);
  return router;
}

void set_experts(ConfigReader& config, ModelSpec& spec, layers::MoeSpec moe, const ExpertLayers& defaults) {
  const bool none = config.is_null("n_shared_experts") || config.is_null("num_shared_experts");
  const int64_t shared = config.integer_of({"n_shared_experts", "num_shared_experts"}, none ? 0 : defaults.shared);
  moe.shared_hidden = shared * moe.hidden;
  const int64_t dense = config.keys.integer("first_k_dense_replace", defaults.dense_layers);
  const int64_t step = config.keys.integer("moe_layer_freq", 1);
  if (shared < 0 || shared > 1 << 20) fail(ErrorKind::bad_input, config.keys.where(), "n_shared_experts is {}", shared);
  if (dense < 0 || step < 1)
    fail(ErrorKind::bad_input, config.keys.where(), "first_k_dense_replace {} and moe_layer_freq {}", dense, step);
  const auto by_rule = [&](int64_t layer) { return layer >= dense && layer % step == 0; };
  std::vector<bool> sparse;
  if (defaults.by_list) sparse = config.sparse_layers(spec, by_rule);
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    if (defaults.by_list ? !sparse[i] : !by_rule(static_cast<int64_t>(i))) continue;
    moe.activation = std::get<layers::DenseFfnSpec>(spec.blocks[i].ffn).activation;
    spec.blocks[i].ffn = moe;
  }
  // What balances the load in training.
  config.keys.inert({"seq_aux", "aux_loss_alpha", "ep_size"});
}

namespace {

size_t dense_layers(const ModelSpec& spec) {
  size_t dense = 0;
  while (!std::holds_alternative<layers::MoeSpec>(spec.blocks[dense].ffn)) ++dense;
  return dense;
}

}  // namespace

void experts_to_gguf(const ModelSpec& spec, MetadataWriter& metadata) {
  const layers::MoeSpec* moe = first_moe(spec);
  if (!moe) return;
  metadata.put("leading_dense_block_count", static_cast<uint64_t>(dense_layers(spec)));
  metadata.erase("expert_shared_feed_forward_length");
  if (moe->shared_hidden > 0)
    metadata.put("expert_shared_count", static_cast<uint64_t>(moe->shared_hidden / moe->hidden));
}

void experts_to_config(const ModelSpec& spec, ConfigWriter& config) {
  config.experts("n_routed_experts");
  const layers::MoeSpec& moe = *first_moe(spec);
  config.json["moe_intermediate_size"] = moe.hidden;
  config.json["n_shared_experts"] = moe.shared_hidden / std::max<int64_t>(moe.hidden, 1);
  config.json["first_k_dense_replace"] = dense_layers(spec);
  config.json["n_group"] = moe.router.groups, config.json["topk_group"] = moe.router.groups_kept;
  config.json["norm_topk_prob"] = moe.router.renormalise;
  config.json["routed_scaling_factor"] = decimal(moe.router.scale);
}

void set_prediction_layers(ConfigReader& config, ModelSpec& spec, int64_t otherwise) {
  spec.prediction_layers = config.integer_of({"num_nextn_predict_layers", "num_mtp_layers"}, otherwise);
  if (spec.prediction_layers < 0 || spec.prediction_layers > 64)
    fail(ErrorKind::bad_input, config.keys.where(), "num_nextn_predict_layers is {}", spec.prediction_layers);
  config.keys.inert({"mtp_layer_types", "mtp_mlp_layer_types"});
}

void drop_prediction_layers(MetadataReader& metadata, ModelSpec& spec) {
  const int64_t layers = metadata.integer("nextn_predict_layers", 0);
  if (layers < 0 || layers >= static_cast<int64_t>(spec.blocks.size()))
    fail(ErrorKind::bad_input, "nextn_predict_layers", "{} of {} layers", layers, spec.blocks.size());
  spec.prediction_layers = layers;
  spec.blocks.resize(spec.blocks.size() - static_cast<size_t>(layers));
}

bool has_selection_bias(const MetadataReader& metadata, const ModelSpec& spec) {
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    for (const char* name : {"blk.{}.exp_probs_b.bias", "blk.{}.exp_probs_b"})
      if (metadata.has_tensor(fmt::format(fmt::runtime(name), i))) return true;
  return false;
}

NameTable expert_names() {
  NameTable table = hugging_face_moe_names("mlp", "gate_proj", "up_proj", "down_proj");
  const std::string layer = "model.layers.{layer}.mlp.", path = "blocks.{layer}.moe.";
  for (const std::string part : {"gate", "up", "down"})
    table.names[path + "shared." + part] = {{layer + "shared_experts." + part + "_proj.weight"}};
  table.names[path + "router.selection_bias"] = {{layer + "gate.e_score_correction_bias"}};
  return table;
}

}  // namespace coterie::families::deepseek
