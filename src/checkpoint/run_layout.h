#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

// Where the models lie in the folder of a training run (train/run_folder.h has the rest): what writes them and what
// opens them go by this.
namespace coterie::checkpoint {

inline std::filesystem::path run_recipe(const std::filesystem::path& folder) { return folder / "recipe.json"; }
/// The folder of the best evaluation, where there is one.
inline std::filesystem::path run_best(const std::filesystem::path& folder) { return folder / "best"; }
/// checkpoints/step-0000120
std::filesystem::path run_checkpoint(const std::filesystem::path& folder, int64_t step);
/// Steps of the finished checkpoints, in ascending order. Folders that were not finished are not among them.
std::vector<int64_t> run_steps(const std::filesystem::path& folder);

/// Where a folder is that of a training run: a hint that names what in it can be opened, the best evaluation's files or
/// else the newest checkpoint's. Empty for any other folder.
std::string run_hint(const std::filesystem::path& folder);

}  // namespace coterie::checkpoint
