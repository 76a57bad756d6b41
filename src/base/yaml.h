#pragma once

#include <filesystem>
#include <string_view>

#include "base/json.h"

namespace coterie::base {

/// A YAML document as the Json it stands for, so that a recipe is read by the same JsonReader as a config: null, true,
/// false, integers and numbers (YAML 1.2's core schema, .inf and .nan as parse_json has them), everything else and
/// everything quoted a string. Aliases are followed. Throws bad_input with line and column for text that does not
/// parse, a key that is not a scalar or occurs twice, several documents, and nesting or aliases beyond any recipe.
Json parse_yaml(std::string_view text, std::string_view where);
Json read_yaml(const std::filesystem::path& path);

}  // namespace coterie::base
