#pragma once

#include <filesystem>
#include <string>

namespace coterie::checkpoint {

/// Where a folder is that of a training run (train/run_folder.h): a hint that names what in it can be opened, the best
/// evaluation's files or else the newest checkpoint's. Empty for any other folder.
std::string run_hint(const std::filesystem::path& folder);

}  // namespace coterie::checkpoint
