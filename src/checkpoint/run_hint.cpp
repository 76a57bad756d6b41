#include "checkpoint/run_hint.h"

#include <fmt/format.h>

#include <algorithm>

namespace coterie::checkpoint {

namespace fs = std::filesystem;

std::string run_hint(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder / "recipe.json", error)) return "";
  fs::path found = folder / "best";
  if (!fs::is_directory(found, error)) {
    std::string newest;  // the numbers have leading zeros
    for (const fs::directory_entry& entry : fs::directory_iterator(folder / "checkpoints", error)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("step-") && !name.ends_with(".part")) newest = std::max(newest, name);
    }
    if (newest.empty()) return "it is the folder of a training run that has no checkpoint yet";
    found = folder / "checkpoints" / newest;
  }
  if (fs::exists(found / "adapter_config.json", error))
    return fmt::format("it is the folder of a run that trained an adapter: --adapter {}, over the model it tuned",
                       found.string());
  return fmt::format("it is the folder of a training run: name {}", found.string());
}

}  // namespace coterie::checkpoint
