#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/spec.h"

namespace coterie::families {

/// Names of the published shapes that are known: "mixtral-8x7b", "qwen3-30b-a3b", …
std::vector<std::string> shape_names();
/// What a model of that name is, or of a config.json's path (it ends with ".json"); `layers` of them instead of all
/// where it is not 0. Throws bad_input with the list of names.
models::ModelSpec shape(std::string_view name, int64_t layers = 0);

}  // namespace coterie::families
