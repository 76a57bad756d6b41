#include "train/run_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace coterie::train {

namespace fs = std::filesystem;
using base::ErrorKind;

namespace {

constexpr std::string_view kStep = "step-";
constexpr const char* kUnfinished = ".part";

void sync(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

std::vector<int64_t> RunFolder::checkpoints() const {
  std::vector<int64_t> steps;
  std::error_code absent;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_ / "checkpoints", absent)) {
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

fs::path RunFolder::checkpoint(int64_t step) const {
  return path_ / "checkpoints" / fmt::format("{}{:07}", kStep, step);
}

void RunFolder::write_checkpoint(int64_t step, int64_t kept, const std::function<void(const fs::path&)>& fill) const {
  const fs::path final_path = checkpoint(step), unfinished = final_path.string() + kUnfinished;
  std::error_code error;
  fs::remove_all(unfinished, error);
  fs::create_directories(unfinished, error);
  if (error) base::fail(ErrorKind::io, unfinished.string(), "cannot be made: {}", error.message());
  try {
    fill(unfinished);
    for (const fs::directory_entry& file : fs::directory_iterator(unfinished)) sync(file.path());
    sync(unfinished);
    fs::remove_all(final_path);
    fs::rename(unfinished, final_path);
    sync(final_path.parent_path());
  } catch (...) {
    fs::remove_all(unfinished, error);
    throw;
  }
  const std::vector<int64_t> steps = checkpoints();
  for (size_t i = 0; i + static_cast<size_t>(kept) < steps.size(); ++i)
    if (steps[i] != step) fs::remove_all(checkpoint(steps[i]), error);
}

}  // namespace coterie::train
