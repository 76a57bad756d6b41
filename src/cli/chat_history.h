#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace coterie::cli {

/// What was typed in earlier chats, for the arrow keys: a file with a JSON string a line, readable by its owner alone.
/// Several chats may append to it at once.
class ChatHistory {
 public:
  static constexpr size_t kEntries = 1000;           // that are read and kept
  static constexpr size_t kLongestEntry = 64 << 10;  // bytes; what is longer is remembered for this session alone

  /// COTERIE_HISTORY where it is set (empty: no file), else coterie/chat_history.jsonl in XDG_STATE_HOME or
  /// ~/.local/state. Empty when there is no such place.
  static std::filesystem::path default_path();

  /// An empty path: nothing is read or written. A file that cannot be read counts as empty.
  explicit ChatHistory(std::filesystem::path path);
  const std::vector<std::string>& entries() const { return entries_; }
  /// Keeps the entry, unless it repeats the one before. A file that cannot be written does not end a chat:
  /// `problem()` then says why.
  void add(std::string_view entry);
  const std::string& problem() const { return problem_; }

 private:
  void append(const std::string& line);

  std::filesystem::path path_;
  std::vector<std::string> entries_;
  std::string problem_;
};

}  // namespace coterie::cli
