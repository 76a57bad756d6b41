#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "tensor/dtype.h"

namespace coterie::surgery {

/// A model whose FFNs become experts.
struct ExpertRecipe {
  std::string source_model;
  std::vector<std::string> positive_prompts, negative_prompts;
  double noise_scale = 0;     // N(0, noise_scale²) is added to each weight
  double residual_scale = 1;  // of the down projection
  std::string where;          // in the recipe, for messages
};

/// mergekit-moe's recipe (its docs/moe.md): the attention, norms and embeddings of one model, the FFNs of several.
struct MoeRecipe {
  enum class Gates {
    hidden,          // also "hidden_avg": the mean state of the prompts' tokens
    hidden_last,     // that of their last tokens
    cheap_embed,     // the mean of their embeddings, the same in every layer
    random,          // N(0, 1)
    uniform_random,  // ±1/√D, as PyTorch's Linear begins
  };
  std::string base_model;
  Gates gates = Gates::hidden;
  std::vector<ExpertRecipe> experts;
  std::optional<ExpertRecipe> shared;  // shared_experts
  int64_t experts_per_token = 2;
  std::optional<tensor::DType> dtype;  // float32, float16, bfloat16
  std::string architecture;            // model_type to write; empty: the published mixture type
  std::vector<std::string> notes;      // what is said and has no effect

  bool reads_prompts() const { return gates != Gates::random && gates != Gates::uniform_random; }
};

/// Whether a recipe is one of these: it has `experts`, where those of whole models have `merge_method`.
bool is_moe_recipe(const base::Json& recipe);
/// The keys that one may have.
std::vector<std::string> moe_recipe_keys();
/// Throws bad_input naming the key, with the nearest known one for one that is misspelt; unsupported for more than one
/// shared expert and architectures that are not written here.
MoeRecipe read_moe_recipe(const base::Json& recipe, const std::string& where);

/// "float32", "bfloat16", "float16", or the names of this engine.
std::optional<tensor::DType> recipe_dtype(base::JsonReader& keys, std::string_view key);

}  // namespace coterie::surgery
