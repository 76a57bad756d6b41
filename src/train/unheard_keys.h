#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "train/recipe.h"

namespace coterie::train {

/// Keys of a config.json that say how its authors trained and that this trainer does not go by, where they ask for
/// something: a sentence each, with the key of the recipe that does the same. No refusal: published configs have them.
std::vector<std::string> unheard_keys(const base::Json& config, const Recipe& recipe);

}  // namespace coterie::train
