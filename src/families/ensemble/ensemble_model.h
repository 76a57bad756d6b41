#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "families/ensemble/ensemble_decoder.h"
#include "families/ensemble/gate.h"
#include "families/open.h"

namespace coterie::families {

/// The models of `gate` in one: a Model over all their files, with the tokenizer and the
/// template_of the first. Refuses models whose tokenizers differ. `folder`: the gate's, which paths are relative to.
struct EnsembleModel {
  Model model;
  EnsembleDecoder* decoder;  // model's
};
EnsembleModel open_ensemble(const Gate& gate, const std::filesystem::path& folder, const OpenOptions& options = {});
/// The chat template for what `answers`, one of the models of a gate: its own, or where it has none the first that one
/// of `all` has, in their order. Null where none has.
const text::ChatTemplate* template_of(const Model& answers, std::span<const Model* const> all);
/// What to call the models of a gate: their names, or where two have the same their paths.
std::vector<std::string> names_of(const Gate& gate, std::span<const Model> models);
/// The models one by one, with the same refusals.
std::vector<Model> open_models(const Gate& gate, const std::filesystem::path& folder, const OpenOptions& options = {});

}  // namespace coterie::families
