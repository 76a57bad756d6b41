#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "families/names/name_table.h"
#include "models/spec.h"

namespace coterie::families {

using models::BlockSpec;
using models::ModelSpec;

class ConfigReader;
class ConfigWriter;
class MetadataReader;
class MetadataWriter;

/// A published size of a model: the keys of its config.json that say what the model is; no defaults are relied on.
struct Shape {
  std::string_view name, config;
};

/// The model_type of models that read or hear as well, and where their config.json has that of the text model.
struct Multimodal {
  std::string_view model_type;
  std::string_view text = "text_config";  // a key, or several one inside the other: "thinker_config.text_config"
  bool tied = false;                      // tie_word_embeddings, which stands beside it, where the file is silent
};

/// Whether tensors are looked for in a file, or named in one that is made.
enum class Direction { reading, writing };

/// What a family's heads for multi-token prediction are.
struct PredictionForm {
  // Its block; null: like the model's last.
  BlockSpec (*block)(const ModelSpec& spec) = nullptr;
  // For heads under names of their own: makes those of a model's layer (`names`, of the folder or GGUF file that
  // `source` is; null: of a folder that is to be written) the head's, with prediction.embedding_norm,
  // prediction.hidden_norm, prediction.projection and final_norm. Null: as DeepSeek's, or mtp.*.
  void (*names)(NameTable& names, const checkpoint::TensorSource* source, int64_t layers) = nullptr;
};

/// A family of models: how its config.json and its GGUF metadata say what a model is, in both directions, and what its
/// files call the tensors. A new family is one file in known/ that defines one of these, and a line in family.cpp. What
/// is null, empty or false is so for most.
struct Family {
  std::string_view model_type = {};    // of config.json
  std::string_view architecture = {};  // general.architecture of GGUF; several families may share one, some have none
  std::string_view class_name = {};    // in transformers, as config.json's architectures have it
  ModelSpec (*from_config)(ConfigReader& config);
  ModelSpec (*from_gguf)(MetadataReader& metadata);
  NameTable (*hugging_face_names)();
  // Writes the config.json of a model that is made here: converted from GGUF, or a mixture of dense models. Null: none
  // is written.
  void (*to_config)(const ModelSpec& spec, ConfigWriter& config) = nullptr;
  // Changes what MetadataWriter::describe says of a model in GGUF's keys, where the architecture says it otherwise.
  void (*to_gguf)(const ModelSpec& spec, MetadataWriter& metadata) = nullptr;
  // Changes the table of GGUF's names (gguf_names) where the architecture's differ: for reading `source`, for reading
  // what is made up (null), or for writing (null).
  void (*adjust_gguf_names)(NameTable& table, Direction direction, const checkpoint::TensorSource* source) = nullptr;
  // Its GGUF holds the config.json whole, as {architecture}.config, and the tensors under the names of a folder.
  bool as_it_is_in_gguf = false;
  // Where the weights say more than the config: changes the spec by the tensors that there are, warning of it.
  void (*fit_to_tensors)(ModelSpec& spec, const checkpoint::TensorSource& source, const NameTable& names,
                         std::vector<std::string>& warnings) = nullptr;
  // The family that a dense one's mixture of experts is published as, without or with a shared expert, by model_type;
  // null: as the engine's own.
  std::string_view (*moe_type)(bool shared) = nullptr;
  // Its mixtures always have a shared expert, behind a gate.
  bool gated_shared_expert = false;
  // What recipes of other programs call it, for mixtures.
  std::string_view aliases[2] = {};
  // Published sizes that `bench --shape` knows by name.
  std::span<const Shape> shapes = {};
  // Whether a model that was read from GGUF may be this family's, for families that share an architecture. Null:
  // always.
  bool (*says)(const ModelSpec& spec) = nullptr;
  // Whose text model is of this family where its own config does not name another.
  std::span<const Multimodal> multimodal = {};
  // Its heads for multi-token prediction, where they differ from most; null: they do not.
  const PredictionForm* prediction = nullptr;
  // Changes the table of names where the tensors of `source`, a folder's, say how they lie.
  void (*adjust_names)(NameTable& table, const checkpoint::TensorSource& source) = nullptr;
};

/// The family of a config.json's model_type, or of a GGUF architecture. Throws unsupported with the list of those
/// that are supported.
const Family& family_of_model_type(std::string_view model_type, std::string_view where);
const Family& family_of_architecture(std::string_view architecture, std::string_view where);
/// The family of a spec: of its model_type, or else of several that share its architecture the first that says it.
const Family& family_of(const ModelSpec& spec);
/// The key of GGUF metadata that holds an architecture's config.json whole; empty for most, which have none.
std::string config_key_in_gguf(std::string_view architecture);
/// The names of a family's tensors in GGUF (Family::adjust_gguf_names).
NameTable gguf_names_of(const Family& family, Direction direction, const checkpoint::TensorSource* source = nullptr);

/// What a family that is known and not supported needs and this engine lacks; empty for one nobody knows. By
/// model_type or by GGUF architecture, the other empty.
std::string_view what_is_missing(std::string_view model_type, std::string_view architecture);
/// The engine's own, which says most of what the engine runs.
const Family& own_family();
/// What mixtures of dense models are written as: every family that is some family's moe_type, and the engine's own.
std::vector<const Family*> mixture_families();
/// The family that the mixture of a dense family's models is published as, or the engine's own.
const Family& published_mixture(const Family& dense, bool shared);

/// What upcycling makes of which dense families, for people: "llama and mistral become mixtral, qwen2 qwen2_moe; others
/// …".
std::string describe_mixtures();

/// Those of every family.
std::vector<Shape> all_shapes();

/// "llama, mistral, …"
std::string supported_model_types();

/// The config.json of a folder; of a multimodal model that of its text model, as it would stand alone.
base::Json read_text_config(const std::filesystem::path& path);

/// Reads a config.json. Keys that would change the result and that the family does not honour are refused by name;
/// keys nobody knows become spec.warnings, or are refused when `strict`.
ModelSpec read_config(const base::Json& config, const std::string& where, bool strict);
/// Reads a GGUF file's metadata (and the presence and shapes of its tensors, where that is what says it).
ModelSpec read_gguf(const checkpoint::TensorSource& source, bool strict);

/// The families that a model read from GGUF may be of and which write a config.json for `spec`, the most likely one
/// first; empty where there is none.
std::vector<const Family*> families_saying(const ModelSpec& spec);
/// "mixtral, …": all that write a config.json.
std::string written_model_types();

/// What files of any family call a router: patterns, as NameTable::inert.
std::vector<std::string> router_patterns();

/// The table that names the tensors of `source` for a model of the family that the spec was read as.
NameTable names_for(const ModelSpec& spec, const checkpoint::TensorSource& source);

}  // namespace coterie::families
