#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/names/name_table.h"
#include "models/spec.h"

// What DeepSeek-V2, DeepSeek-V3 and the families that took over their mixture (GLM-4-MoE) share.
namespace coterie::families::deepseek {

struct RouterDefaults {
  int64_t experts, experts_per_token, groups, groups_kept;
  double scale;
  bool renormalise = true;
  std::string_view score_alias = "sigmoid";  // what published configs may call the same scoring_func
};
/// DeepSeek-V3's router: sigmoid scores, a bias of selection, groups by the sum of their two best, norm_topk_prob,
/// routed_scaling_factor. Refuses other values of scoring_func and topk_method.
layers::RouterSpec sigmoid_router(ConfigReader& config, const RouterDefaults& defaults);

struct ExpertLayers {
  int64_t shared, dense_layers;
  bool by_list = false;  // mlp_layer_types says which layers have experts, where the file has it
};
/// `moe` in every layer from first_k_dense_replace on whose number moe_layer_freq divides, with n_shared_experts (or
/// num_shared_experts) as one shared expert.
void set_experts(ConfigReader& config, ModelSpec& spec, layers::MoeSpec moe, const ExpertLayers& defaults);

/// The same keys, from the first layer with experts.
void experts_to_config(const ModelSpec& spec, ConfigWriter& config);

/// leading_dense_block_count, and how many shared experts of a routed one's width there are in place of the width of
/// all.
void experts_to_gguf(const ModelSpec& spec, MetadataWriter& metadata);

/// num_nextn_predict_layers: layers after the last, for multi-token prediction, whose tensors are left alone.
void set_prediction_layers(ConfigReader& config, ModelSpec& spec, int64_t otherwise);
/// The same for GGUF, where block_count includes them.
void drop_prediction_layers(MetadataReader& metadata, ModelSpec& spec);

bool has_selection_bias(const MetadataReader& metadata, const ModelSpec& spec);

struct LatentDefaults {
  int64_t q_rank, kv_rank, nope_dim, rope_dim, value_dim;
};
/// Latent attention in every layer, from q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim and v_head_dim.
/// The spec comes from ConfigReader::decoder with qk_rope_head_dim for head_dim.
void set_attention(ConfigReader& config, ModelSpec& spec, bool interleaved, const LatentDefaults& defaults);
/// A whole model of architecture deepseek2.
ModelSpec latent_from_gguf(MetadataReader& metadata);
/// config.json of one: sizes, latent attention and experts.
void latent_to_config(const ModelSpec& spec, ConfigWriter& config);
/// expert_names() and those of latent attention.
NameTable latent_names();
/// Layers whose experts the file has, although the config says there are none.
void find_sparse_layers(ModelSpec& spec, const checkpoint::TensorSource& source, const NameTable& names,
                        std::vector<std::string>& warnings);
bool has_experts(const ModelSpec& spec);
/// DeepSeek-V3's config under whatever model_type.
ModelSpec v3_from_config(ConfigReader& config);
void v3_to_config(const ModelSpec& spec, ConfigWriter& config);

/// Hugging Face's names with mlp.experts, mlp.shared_experts and mlp.gate.e_score_correction_bias.
NameTable expert_names();

}  // namespace coterie::families::deepseek
