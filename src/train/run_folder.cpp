#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/error.h"

namespace coterie::train {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::Json;

namespace {

constexpr std::string_view kStep = "step-";
constexpr const char *kUnfinished = ".part", *kGoing = ".gone.part";

void sync(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

// The keys of two recipes that differ, by name.
void differences(const Json& was, const Json& is, const std::string& path, std::string& found) {
  if (was == is) return;
  if (!was.is_object() || !is.is_object()) {
    found += (found.empty() ? "" : ", ") + path;
    return;
  }
  Json keys = was;
  keys.update(is);
  for (const auto& [key, value] : keys.items())
    differences(was.value(key, Json()), is.value(key, Json()), path.empty() ? key : path + "." + key, found);
}

// A folder that is taken away is first no checkpoint any more, and then gone.
void remove_checkpoint(const fs::path& folder) {
  std::error_code error;
  const fs::path going = folder.string() + kGoing;
  fs::remove_all(going, error);
  fs::rename(folder, going, error);
  fs::remove_all(going, error);
}

}  // namespace

bool RunFolder::take_up(const Json& asked, bool resume) const {
  const bool there = fs::exists(recipe());
  if (there && !resume)
    throw base::Error(ErrorKind::bad_input, path_.string(), "holds a training run already",
                      "--resume goes on with it; or give another folder with -o");
  if (there) {
    std::string different;
    differences(base::read_json(recipe()), asked, "", different);
    if (!different.empty())
      throw base::Error(ErrorKind::bad_input, path_.string(),
                        fmt::format("holds a run of another recipe: {} differ", different),
                        "a run goes on with the recipe it began with; give another folder with -o for this one");
    return true;
  }
  std::error_code error;
  fs::create_directories(path_, error);
  if (error) base::fail(ErrorKind::io, path_.string(), "cannot be made: {}", error.message());
  return false;
}

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

namespace {

void write_folder(const fs::path& final_path, const std::function<void(const fs::path&)>& fill) {
  const fs::path unfinished = final_path.string() + kUnfinished;
  std::error_code error;
  fs::remove_all(unfinished, error);
  fs::create_directories(unfinished, error);
  if (error) base::fail(ErrorKind::io, unfinished.string(), "cannot be made: {}", error.message());
  try {
    fill(unfinished);
    for (const fs::directory_entry& file : fs::directory_iterator(unfinished)) sync(file.path());
    sync(unfinished);
    if (fs::exists(final_path)) remove_checkpoint(final_path);
    fs::rename(unfinished, final_path);
    sync(final_path.parent_path());
  } catch (...) {
    fs::remove_all(unfinished, error);
    throw;
  }
}

}  // namespace

void RunFolder::write_best(const std::function<void(const fs::path&)>& fill) const { write_folder(best(), fill); }

void RunFolder::write_checkpoint(int64_t step, int64_t kept, const std::function<void(const fs::path&)>& fill) const {
  const fs::path final_path = checkpoint(step);
  write_folder(final_path, fill);
  std::error_code error;
  const std::vector<int64_t> steps = checkpoints();
  for (size_t i = 0; i + static_cast<size_t>(kept) < steps.size(); ++i)
    if (steps[i] != step) remove_checkpoint(checkpoint(steps[i]));
  // What a process that was killed left half written or half removed.
  for (const fs::directory_entry& entry : fs::directory_iterator(final_path.parent_path(), error))
    if (entry.path().extension() == kUnfinished) fs::remove_all(entry.path(), error);
}

RunLock::RunLock(const fs::path& folder) : descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (descriptor_ < 0) base::fail(ErrorKind::io, folder.string(), "cannot be opened: {}", std::strerror(errno));
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;  // some file systems have no locks
  ::close(descriptor_);
  throw base::Error(ErrorKind::bad_input, folder.string(), "another process is training into it",
                    "wait for it or stop it; or give another folder with -o");
}

RunLock::~RunLock() { ::close(descriptor_); }

}  // namespace coterie::train
