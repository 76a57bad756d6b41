#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "train/recipe.h"

namespace coterie::train {

/// The sections of a recipe (docs/guides/train.md, "The recipe"), checked. `where` names the recipe in errors; paths in
/// it are relative to `folder`; `tuned` is the model that a recipe with a section `tune` is for. Throws bad_input for
/// what is misspelt, out of range or without effect.
Recipe read_sections(const base::Json& json, const std::string& where, std::filesystem::path folder,
                     const std::filesystem::path& tuned);

/// The section `variants`, taken out of the recipe; an empty object where there is none.
base::Json take_variants(base::Json& recipe);

}  // namespace coterie::train
