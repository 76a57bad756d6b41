#include "cli/chat_history.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json.h"

namespace coterie::cli {

namespace {

std::string line_of(std::string_view entry) {
  return base::Json(entry).dump(-1, ' ', false, base::Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::filesystem::path ChatHistory::default_path() {
  if (const char* own = std::getenv("COTERIE_HISTORY")) return own;
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  // The specification of XDG: a relative path is to be ignored.
  if (state && *state == '/') return std::filesystem::path(state) / "coterie" / "chat_history.jsonl";
  if (home && *home) return std::filesystem::path(home) / ".local" / "state" / "coterie" / "chat_history.jsonl";
  return {};
}

ChatHistory::ChatHistory(std::filesystem::path path) : path_(std::move(path)) {
  if (path_.empty()) return;
  std::ifstream in(path_, std::ios::binary);
  size_t lines = 0;
  for (std::string line; std::getline(in, line); ++lines) {
    // A line that another program or a full disk has damaged is left out.
    const base::Json entry = base::Json::parse(line, nullptr, false);
    if (entry.is_string()) entries_.push_back(entry.get<std::string>());
  }
  if (entries_.size() > kEntries) entries_.erase(entries_.begin(), entries_.end() - kEntries);
  if (lines <= 2 * kEntries) return;
  try {
    base::AtomicFile shorter(path_, base::Existing::replaced);
    for (const std::string& entry : entries_) shorter.write(line_of(entry));
    shorter.commit();
    ::chmod(path_.c_str(), S_IRUSR | S_IWUSR);
  } catch (const base::Error& error) {
    problem_ = error.what();
  }
}

void ChatHistory::add(std::string_view entry) {
  if (entry.empty() || (!entries_.empty() && entries_.back() == entry)) return;
  entries_.emplace_back(entry);
  if (!path_.empty() && entry.size() <= kLongestEntry && problem_.empty()) append(line_of(entry));
}

void ChatHistory::append(const std::string& line) {
  std::error_code code;
  const std::filesystem::path folder = path_.parent_path();
  if (!folder.empty() && std::filesystem::create_directories(folder, code))
    std::filesystem::permissions(folder, std::filesystem::perms::owner_all, code);
  const int file = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
  // One write, so that lines of two chats do not mix.
  if (file < 0 || ::write(file, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    problem_ = fmt::format("{} cannot be written: {}", path_.string(), std::strerror(errno));
  if (file >= 0) ::close(file);
}

}  // namespace coterie::cli
