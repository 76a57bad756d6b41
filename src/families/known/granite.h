#pragma once

#include "families/config/config_reader.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/names/name_table.h"
#include "models/spec.h"

// What Granite's models of attention alone share.
namespace coterie::families::granite {

/// Llama's blocks with embedding_multiplier, attention_multiplier, residual_multiplier, logits_scaling and
/// attention_bias; the FFNs dense still.
ModelSpec read_config(ConfigReader& config);
/// The same from GGUF, with experts where the file has some.
ModelSpec read_gguf(MetadataReader& metadata);
/// attention.scale.
void write_gguf(const ModelSpec& spec, MetadataWriter& metadata);
/// Hugging Face's names with block_sparse_moe and shared_mlp.
NameTable moe_names();

}  // namespace coterie::families::granite
