#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "families/family.h"
#include "layers/specs.h"
#include "models/spec.h"
#include "tensor/dtype.h"

namespace coterie::surgery {

/// A mixture of experts in place of a dense model's FFNs, as a family that can say it: what is written, and the
/// config.json that says so.
struct PublishedMixture {
  models::ModelSpec spec;
  base::Json config;
};

/// What config.json calls a format of weights: "bfloat16". Throws unsupported for those that safetensors' readers do
/// not take as weights.
std::string dtype_word(tensor::DType dtype);

/// `parent` with `moe` for the FFN of each layer that `sparse` names (all others stay), as `family`; `config` is the
/// parent's config.json. What is made is read back before it is handed out: throws unsupported, naming the field, where
/// that family's config.json cannot say something of the parent (biases, windows, q/k norms, rotary scaling,
/// activation) or of the router, and for a family that mixtures are not written as (families::mixture_families).
PublishedMixture make_published(const models::ModelSpec& parent, const std::filesystem::path& config,
                                const layers::MoeSpec& moe, const std::vector<bool>& sparse,
                                const families::Family& family);

/// The family of a model_type that a user asked for; throws unsupported for one that mixtures are not written as.
const families::Family& mixture_family(const std::string& model_type);

/// The note for a user where the family was not asked for and a dense model of `dense` has no published mixture; empty
/// otherwise.
std::string own_type_note(const families::Family& dense, const families::Family& written);

}  // namespace coterie::surgery
