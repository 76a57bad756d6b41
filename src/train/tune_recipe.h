#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "families/adapter/adapter.h"
#include "layers/tensor_list.h"
#include "models/decoder.h"

namespace coterie::train {

/// What coterie tune changes of a model that is there: the `tune` section of a recipe.
struct TuneRecipe {
  std::filesystem::path model;             // a folder or a .gguf
  std::optional<families::LoraSpec> lora;  // matrices added to the weights; or else
  std::vector<std::string> full;           // the places whose weights are changed themselves
  std::vector<std::string> frozen;         // but for these
};

/// Reads the section. Throws bad_input for both of lora and full, or none.
TuneRecipe read_tune(base::JsonReader& recipe, const std::filesystem::path& model);

/// Whether full tuning changes this tensor: `tune.full` without `tune.frozen`. Words are those of layers::name(Place),
/// "attention" (mixers that are attention), "embeddings", "head", "prediction" (the head for multi-token prediction,
/// where it is trained) and "all".
bool is_tuned(const TuneRecipe& tune, const layers::ListedTensor& tensor);

/// Parameters that will be trained, by place. Throws bad_input for a word that matches nothing in this model, naming
/// those that do, and when nothing is left.
std::array<int64_t, layers::kPlaces> trainable(const models::Decoder& decoder, const TuneRecipe& tune);

}  // namespace coterie::train
