#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/json.h"

namespace coterie::runtime {

/// $XDG_CACHE_HOME/coterie/machine.json, or ~/.cache/coterie/machine.json; nothing when neither variable is set.
std::optional<std::filesystem::path> machine_file();

/// What machine_file() holds under `name`; null when there is no such file or entry, or it cannot be read.
base::Json recall(const std::string& name);
/// Adds or replaces that entry. A folder that cannot be written costs the memory, not the caller.
void remember(const std::string& name, const base::Json& entry);

}  // namespace coterie::runtime
