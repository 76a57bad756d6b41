#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "families/names/name_table.h"
#include "models/spec.h"

namespace coterie::families {

using models::BlockSpec;
using models::ModelSpec;

class ConfigReader;
class MetadataReader;

/// A family of models: how its config.json and its GGUF metadata say what a model is, and what its files call the
/// tensors. A new family is one file here that defines one of these, and a line in family.cpp.
struct Family {
  std::string_view model_type;    // of config.json
  std::string_view architecture;  // general.architecture of GGUF; several model_types may share one, and some have none
  ModelSpec (*from_config)(ConfigReader& config);
  ModelSpec (*from_gguf)(MetadataReader& metadata);
  NameTable (*hugging_face_names)();
  // In GGUF: shared experts are as wide as the routed ones and counted, where others say how wide they are together.
  bool counts_shared_experts = false;
};

/// The family of a config.json's model_type, or of a GGUF architecture. Throws unsupported with the list of those
/// that are supported.
const Family& family_of_model_type(std::string_view model_type, std::string_view where);
const Family& family_of_architecture(std::string_view architecture, std::string_view where);
/// What a family that is known and not supported needs and this engine has not; empty for one nobody knows. By
/// model_type or by GGUF architecture, the other empty.
std::string_view what_is_missing(std::string_view model_type, std::string_view architecture);
/// "llama, mistral, …"
std::string supported_model_types();

/// Reads a config.json. Keys that would change the result and that the family does not honour are refused by name;
/// keys nobody knows become spec.warnings, or are refused when `strict`.
ModelSpec read_config(const base::Json& config, const std::string& where, bool strict);
/// Reads a GGUF file's metadata (and the presence and shapes of its tensors, where that is what says it).
ModelSpec read_gguf(const checkpoint::TensorSource& source, bool strict);

/// What files of any family call a router: patterns, as NameTable::inert.
std::vector<std::string> router_patterns();

/// The table that names the tensors of `source` for a model that was read as `family` ("mixtral", "qwen3moe").
NameTable names_for(std::string_view family, const checkpoint::TensorSource& source);

}  // namespace coterie::families
