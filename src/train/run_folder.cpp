#include "train/run_folder.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/atomic_file.h"
#include "base/error.h"
#include "checkpoint/run_layout.h"

namespace coterie::train {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::Json;

namespace {

constexpr const char *kUnfinished = ".part", *kGoing = ".gone.part", *kLock = ".lock";

void sync(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

std::string shown(const Json& value) {
  std::string text = value.is_null() ? "nothing" : value.dump();
  if (text.size() > 40) text = text.substr(0, 37) + "…";
  return text;
}

// The keys of two recipes that differ, by name, with both values.
void differences(const Json& was, const Json& is, const std::string& path, std::vector<std::string>& found) {
  if (was == is) return;
  if (!was.is_object() || !is.is_object()) {
    found.push_back(fmt::format("{} is {} there and {} here", path, shown(was), shown(is)));
    return;
  }
  Json keys = was;
  keys.update(is);
  for (const auto& [key, value] : keys.items())
    differences(was.value(key, Json()), is.value(key, Json()), path.empty() ? key : path + "." + key, found);
}

// How to go on with a run whose recipe is not the one that was asked for.
std::string advice(const Json& was, const Json& is, const fs::path& run) {
  std::string text = fmt::format("coterie {} `resume` {} goes on with the run's own recipe",
                                 is.contains("tune") ? "tune" : "train", run.string());
  const Json before = was.value("training", Json::object()), now = is.value("training", Json::object());
  if (before.value("steps", Json()) != now.value("steps", Json()))
    text += fmt::format(", with `extend` steps={} beside it for so many steps", now.value("steps", Json()).dump());
  return text + "; another folder (`run`) begins another run";
}

// Checks that the weights below a tuning run are still those it began with. What is known of them is not compared
// again; a run of before fingerprints has none.
void expect_same_base(Json& was, const Json& is, const fs::path& run) {
  if (!is.contains("tune") || !was.is_object() || !was.value("model", Json()).is_object()) return;
  Json& before = was["model"];
  const Json& now = is.at("model");
  if (!before.contains("fingerprint")) before["fingerprint"] = now.value("fingerprint", Json());
  if (before.value("path", Json()) != now.value("path", Json()) || before == now) return;
  const bool size = before.value("bytes", Json()) != now.value("bytes", Json());
  throw base::Error(
      ErrorKind::bad_input, now.value("path", std::string()),
      fmt::format("its weights are not those that the run in {} began with: {}", run.string(),
                  size ? fmt::format("they were {} bytes and are {}", before.value("bytes", Json()).dump(),
                                     now.value("bytes", Json()).dump())
                       : "as many bytes, but others (model.fingerprint)"),
      "put those weights back to go on with it; or begin a run over these in another folder (`run`)");
}

// What a run writes into its folder before it has begun, whole or under the temporary names of base::AtomicFile.
bool is_of_start(const std::string& name) {
  constexpr std::array<std::string_view, 9> kOwn = {"recipe.json", "config.json",     "log.jsonl",
                                                    "tokenizer",   "data.json",       "tokens.safetensors",
                                                    "tokens.json", "validation.json", "validation.safetensors"};
  return std::any_of(kOwn.begin(), kOwn.end(), [&](std::string_view own) {
    return name == own ||
           (name.starts_with(own) && name.substr(own.size()).starts_with(".") && name.ends_with(kUnfinished));
  });
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
    throw base::Error(ErrorKind::bad_input, path_.string(), "already holds a training run",
                      "`resume` goes on with it; or give another folder (`run`)");
  if (there) {
    Json was = base::read_json(recipe());
    if (was.is_object()) was.erase("run"), was.erase("extended");
    expect_same_base(was, asked, path_);
    std::vector<std::string> different;
    differences(was, asked, "", different);
    if (!different.empty())
      throw base::Error(ErrorKind::bad_input, path_.string(),
                        fmt::format("holds a run of another recipe: {}", fmt::join(different, "; ")),
                        advice(was, asked, path_));
    return true;
  }
  std::error_code error;
  if (!fs::exists(path_, error)) return false;
  if (!fs::is_directory(path_, error)) base::fail(ErrorKind::bad_input, path_.string(), "is not a folder");
  // Runs of a recipe's variants lie in folders of their own below its own. A start that was killed leaves files by
  // which it is known, and they are nobody else's.
  const bool starting = is_starting();
  for (const fs::directory_entry& entry : fs::directory_iterator(path_, error)) {
    const std::string name = entry.path().filename().string();
    if (name != kLock && !(starting && is_of_start(name)) && (!entry.is_directory() || !holds_run(entry.path())))
      throw base::Error(ErrorKind::bad_input, path_.string(),
                        fmt::format("already exists and is not a training run: it holds {}", name),
                        "name a new or an empty folder (`run`)");
  }
  return false;
}

void RunFolder::extend(const Json& source, const Json& change) const {
  Json now = source;
  const Json was = base::read_json(recipe());
  now["run"] = was.value("run", Json());
  now["extended"] = was.value("extended", Json::array());
  now["extended"].push_back(change);
  base::write_text(recipe(), now.dump(2) + "\n");
}

void RunFolder::remove_after(int64_t step) const {
  for (const int64_t later : checkpoints())
    if (later > step) remove_checkpoint(checkpoint(later));
}

std::vector<fs::path> RunFolder::runs_in(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(RunFolder(folder).recipe(), error)) return {folder};
  std::vector<fs::path> runs;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
    if (fs::exists(RunFolder(entry.path()).recipe(), error)) runs.push_back(entry.path());
  std::sort(runs.begin(), runs.end());
  return runs;
}

bool RunFolder::holds_run(const fs::path& folder) {
  const RunFolder of(folder);
  std::error_code error;
  return fs::exists(of.recipe(), error) || of.is_starting();
}

bool RunFolder::is_starting() const {
  std::error_code error;
  const std::string name = starting().filename().string();  // or, killed while it was written, with more behind
  for (const fs::directory_entry& entry : fs::directory_iterator(path_, error))
    if (entry.path().filename().string().starts_with(name)) return true;
  return false;
}

std::vector<int64_t> RunFolder::checkpoints() const { return checkpoint::run_steps(path_); }

fs::path RunFolder::checkpoint(int64_t step) const { return checkpoint::run_checkpoint(path_, step); }

namespace {

void write_folder(const fs::path& final_path, const std::function<void(const fs::path&)>& fill) {
  const fs::path unfinished = final_path.string() + kUnfinished;
  std::error_code error;
  fs::remove_all(unfinished, error);
  fs::create_directories(unfinished, error);
  if (error) base::fail(ErrorKind::io, unfinished.string(), "cannot be created: {}", error.message());
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

RunLock::RunLock(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) base::fail(ErrorKind::io, folder.string(), "cannot be created: {}", error.message());
  const fs::path path = folder / kLock;
  bool locked = false;
  for (bool same = false; !same;) {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor_ < 0) base::fail(ErrorKind::io, path.string(), "cannot be opened: {}", std::strerror(errno));
    locked = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;  // some file systems have no locks
    // A start that failed takes its lock away: what was locked must still be what has the name.
    struct stat mine, named;
    same = !locked || (::fstat(descriptor_, &mine) == 0 && ::stat(path.c_str(), &named) == 0 &&
                       mine.st_ino == named.st_ino && mine.st_dev == named.st_dev);
  }
  if (locked) {
    const std::string process = std::to_string(::getpid());
    // For the message below alone, so that a full disk does not matter.
    if (::ftruncate(descriptor_, 0) == 0) {
      [[maybe_unused]] const ssize_t ignored = ::write(descriptor_, process.data(), process.size());
    }
    return;
  }
  char text[16];
  const ssize_t size = ::read(descriptor_, text, sizeof text);
  ::close(descriptor_);
  const std::string who = size > 0 ? " (" + std::string(text, static_cast<size_t>(size)) + ")" : "";
  throw base::Error(ErrorKind::bad_input, folder.string(), "another process" + who + " is training into it",
                    "wait for it or stop it; or give another folder (`run`)");
}

RunLock::~RunLock() { ::close(descriptor_); }

RunStart::RunStart(const RunFolder& folder, const Json& recipe, bool resumed) : folder_(folder), done_(resumed) {
  if (resumed) {
    lock_.emplace(folder.path());
    return;
  }
  std::error_code error;
  folders_.emplace(folder.recipe());
  try {
    lock_.emplace(folder.path());
    if (fs::exists(folder.recipe(), error))  // since it was looked at
      throw base::Error(ErrorKind::bad_input, folder.path().string(), "another process has begun a run in it",
                        "`resume` goes on with it; or give another folder (`run`)");
    base::write_text(folder.starting(), recipe.dump(2) + "\n");
  } catch (...) {
    if (lock_ && !fs::exists(folder.recipe(), error)) fs::remove(folder.path() / kLock, error);
    throw;
  }
}

void RunStart::done() {
  if (done_) return;
  std::error_code error;
  fs::rename(folder_.starting(), folder_.recipe(), error);
  if (error) base::fail(ErrorKind::io, folder_.recipe().string(), "cannot be given its name: {}", error.message());
  done_ = true;
  folders_->keep();
}

RunStart::~RunStart() {
  if (done_) return;
  std::error_code error;
  if (fs::exists(folder_.recipe(), error)) {  // another process has begun a run in it
    folders_->keep();
    return;
  }
  std::vector<fs::path> own;  // and nothing that somebody else put there meanwhile
  for (fs::directory_iterator at(folder_.path(), error), end; !error && at != end; at.increment(error))
    if (const std::string name = at->path().filename().string(); name == kLock || is_of_start(name))
      own.push_back(at->path());
  for (const fs::path& path : own) fs::remove_all(path, error);
}

}  // namespace coterie::train
