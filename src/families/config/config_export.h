#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "models/spec.h"

// The config.json of a model that was read from GGUF: the other way round of config_reader.h.
namespace coterie::families {

/// model_types whose files may be called `architecture` in GGUF and whose config.json can be written here, the most
/// likely one for `spec` first; empty where there is none.
std::vector<std::string> hugging_face_types(const models::ModelSpec& spec, const std::string& architecture);

/// A config.json for transformers. What the keys of the model_type cannot say is left out: a reader of the result may
/// find another model (surgery compares).
base::Json hugging_face_config(const models::ModelSpec& spec, const std::string& model_type);

/// "mixtral, …": all whose config.json can be written.
std::string exported_model_types();

/// What hidden_act calls it: the first of the names that ConfigReader::activation reads.
std::string activation_name(ops::Activation activation);

/// What GGUF's rope_freqs.weight holds for a llama3 scaling: [dims / 2], by what each frequency is divided.
std::vector<float> llama3_divisors(const layers::RopeSpec& rope);

}  // namespace coterie::families
