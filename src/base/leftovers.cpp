#include "base/leftovers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <optional>
#include <string_view>

namespace coterie::base {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kFile = ".part", kFolder = ".partial";

/// The process of a temporary name of `target`; nothing for other names.
std::optional<pid_t> process_of(std::string_view name, std::string_view target) {
  if (!name.starts_with(target)) return {};
  name.remove_prefix(target.size());
  if (!name.starts_with(".")) return {};
  name.remove_prefix(1);
  pid_t process = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), process);
  if (error != std::errc() || process <= 0) return {};
  name.remove_prefix(static_cast<size_t>(end - name.data()));
  if (name == kFolder) return process;
  if (!name.starts_with("-") || !name.ends_with(kFile)) return {};
  name.remove_prefix(1), name.remove_suffix(kFile.size());
  const bool number = !name.empty() && name.find_first_not_of("0123456789") == std::string_view::npos;
  return number ? std::optional(process) : std::nullopt;
}

bool ended(pid_t process) { return ::kill(process, 0) != 0 && errno == ESRCH; }

/// Removes it while its lock is held, which nobody else may have then.
bool remove_unlocked(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return false;
  std::error_code error;
  const bool removed = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 && fs::remove_all(path, error) > 0 && !error;
  ::close(descriptor);
  return removed;
}

}  // namespace

fs::path temporary_file(const fs::path& target, int serial) {
  return target.string() + fmt::format(".{}-{}{}", ::getpid(), serial, kFile);
}

fs::path temporary_folder(const fs::path& target) {
  return target.string() + fmt::format(".{}{}", ::getpid(), kFolder);
}

std::vector<fs::path> remove_leftovers(const fs::path& target) {
  std::vector<fs::path> removed;
  std::error_code error;
  fs::path named = target;
  for (int links = 0; links < 40 && fs::is_symlink(named, error); ++links)  // the file that a link leads to is written
    named = named.parent_path() / fs::read_symlink(named, error);
  if (!named.has_filename()) named = named.parent_path();  // "name/"
  const std::string name = named.filename().string();
  const fs::path folder = named.has_parent_path() ? named.parent_path() : ".";
  std::vector<fs::path> found;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string other = at->path().filename().string();
    const std::optional<pid_t> process = process_of(other, name);
    if (process && *process != ::getpid() && ended(*process))
      found.push_back(named.has_parent_path() ? at->path() : fs::path(other));
  }
  for (const fs::path& path : found)
    if (remove_unlocked(path)) removed.push_back(path);
  return removed;
}

}  // namespace coterie::base
