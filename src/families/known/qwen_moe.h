#pragma once

#include "families/config/config_reader.h"
#include "families/config/config_writer.h"
#include "families/gguf/metadata_reader.h"
#include "models/spec.h"

// What Qwen3-MoE and the text models of its multimodal kin share.
namespace coterie::families::qwen {

/// `moe` in the layers that decoder_sparse_step and mlp_only_layers leave, with the width and the router it has.
void set_experts(ConfigReader& config, ModelSpec& spec, layers::MoeSpec moe);
/// Qwen3-MoE's metadata.
ModelSpec moe_from_gguf(MetadataReader& metadata);
/// Sizes, experts and which layers have them.
void moe_to_config(const ModelSpec& spec, ConfigWriter& config);

}  // namespace coterie::families::qwen
