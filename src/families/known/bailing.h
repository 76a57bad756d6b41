#pragma once

#include "checkpoint/tensor_source.h"
#include "families/family.h"
#include "families/gguf/metadata_reader.h"
#include "families/gguf/metadata_writer.h"
#include "families/names/name_table.h"
#include "models/spec.h"

// What Ling 2.0 and the models that took over its tensors share.
namespace coterie::families::bailing {

/// word_embeddings, attention.{query_key_value, dense, query_layernorm, key_layernorm}, mlp.gate.expert_bias.
NameTable names();
/// Architecture bailingmoe2.
ModelSpec from_gguf(MetadataReader& metadata);
void to_gguf(const ModelSpec& spec, MetadataWriter& metadata);
void adjust_gguf_names(NameTable& table, Direction direction, const checkpoint::TensorSource* source);

}  // namespace coterie::families::bailing
