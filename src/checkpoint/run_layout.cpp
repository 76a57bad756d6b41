#include "checkpoint/run_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

namespace coterie::checkpoint {

namespace fs = std::filesystem;

namespace {
constexpr std::string_view kStep = "step-";
fs::path checkpoints(const fs::path& folder) { return folder / "checkpoints"; }
}  // namespace

fs::path run_checkpoint(const fs::path& folder, int64_t step) {
  return checkpoints(folder) / fmt::format("{}{:07}", kStep, step);
}

std::vector<int64_t> run_steps(const fs::path& folder) {
  std::vector<int64_t> steps;
  std::error_code absent;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints(folder), absent)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kStep)) continue;
    int64_t step = 0;
    const char *begin = name.data() + kStep.size(), *end = name.data() + name.size();
    if (const auto [stop, error] = std::from_chars(begin, end, step); error == std::errc() && stop == end)
      steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string run_hint(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(run_recipe(folder), error)) return "";
  fs::path found = run_best(folder);
  if (!fs::is_directory(found, error)) {
    const std::vector<int64_t> steps = run_steps(folder);
    if (steps.empty()) return "it is the folder of a training run that has no checkpoint yet";
    found = run_checkpoint(folder, steps.back());
  }
  if (fs::exists(found / "adapter_config.json", error))
    return fmt::format("it is the folder of a run that trained an adapter: `adapter` {}, over the model it tuned",
                       found.string());
  return fmt::format("it is the folder of a training run: name {}", found.string());
}

}  // namespace coterie::checkpoint
