#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "layers/specs.h"
#include "models/spec.h"
#include "tensor/dtype.h"

namespace coterie::surgery {

/// A mixture of experts in place of a dense model's FFNs, as a family that can say it: what is written, and the
/// config.json that says so.
struct Sibling {
  models::ModelSpec spec;
  base::Json config;
};

/// The model_type that a dense family's mixture is published as: mixtral for llama and mistral, or with a shared expert
/// qwen2_moe, which can say them; qwen2_moe for qwen2, qwen3_moe for qwen3, granitemoe or, with a shared expert,
/// granitemoeshared for granite; for others "coterie", the engine's own, which says most of what the engine runs.
std::string published_sibling(const std::string& family, bool shared);

/// What config.json calls a format of weights: "bfloat16". Throws unsupported for those that safetensors' readers do
/// not take as weights.
std::string dtype_word(tensor::DType dtype);

/// `parent` with `moe` for the FFN of each layer that `sparse` names (all others stay), as `model_type`; `config` is
/// the parent's config.json. What is made is read back before it is handed out: throws unsupported, naming the field,
/// where that family's config.json cannot say something of the parent (biases, windows, q/k norms, rotary scaling,
/// activation) or of the router, and for a model_type that is not written here.
Sibling make_sibling(const models::ModelSpec& parent, const std::filesystem::path& config, const layers::MoeSpec& moe,
                     const std::vector<bool>& sparse, const std::string& model_type);

}  // namespace coterie::surgery
