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

// What the families with Kimi Delta Attention (arXiv:2510.26692) beside latent attention share.
namespace coterie::families::kda {

/// Vocabulary to final norm, and blocks whose mixers and experts are still to be set: ConfigReader::decoder for configs
/// that call the context model_max_length and turn part of each key, if any.
ModelSpec decoder(ConfigReader& config, ConfigDefaults defaults);

/// Latent attention by DeepSeek-V3's keys; its rotary embedding is the blocks', interleaved.
layers::LatentAttentionSpec latent(ConfigReader& config, const ModelSpec& spec);

/// By layer_types, or else where full(layer): attention there, `delta` elsewhere.
void set_mixers(ConfigReader& config, ModelSpec& spec, const layers::DeltaRuleSpec& delta,
                const layers::LatentAttentionSpec& attention, base::FunctionRef<bool(int64_t layer)> full);

struct ExpertDefaults {
  int64_t experts, hidden, groups, groups_kept, dense_layers;
  double scale;
};
/// DeepSeek-V3's mixture by the keys of these families; dense by mlp_layer_types, or else in the first
/// first_k_dense_replace layers.
void set_experts(ConfigReader& config, ModelSpec& spec, const ExpertDefaults& defaults);

/// Names of both mixers below `layer` ("model.layers.{layer}.self_attn."), whose output projection is called `out`.
void add_names(NameTable& table, const std::string& layer, const std::string& out);

/// Both mixers and the mixture from GGUF. Layers without key-value heads have `delta`.
ModelSpec from_gguf(MetadataReader& metadata, layers::DeltaRuleSpec delta, bool positions, bool head_gate);
/// config.json: sizes, both mixers by layer, experts; the numbers of experts for a token and of groups are left to do.
void to_config(const ModelSpec& spec, ConfigWriter& config);
void to_gguf(const ModelSpec& spec, MetadataWriter& metadata);

}  // namespace coterie::families::kda
