#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace coterie::cli::test {

/// `coterie ARGUMENTS` on a terminal of its own (a pseudo-terminal of 80 × 24), as a user sits at one.
class TerminalSession {
 public:
  /// `state`: the folder for XDG_STATE_HOME.
  TerminalSession(const std::vector<std::string>& arguments, const std::filesystem::path& state);
  ~TerminalSession();
  TerminalSession(const TerminalSession&) = delete;
  TerminalSession& operator=(const TerminalSession&) = delete;

  /// Types all of it, however long; what the program shows meanwhile is kept.
  void type(std::string_view keys);
  /// Text in the brackets that terminals put around what is pasted.
  void paste(std::string_view text) { type("\033[200~" + std::string(text) + "\033[201~"); }
  void signal(int number) const;
  void resize(int columns, int rows);
  /// Waits until the screen has shown `words` since the last wait, at most 20 s. Returns what it has shown since then.
  std::string wait_for(std::string_view words);
  /// Waits for the end of the program; its exit code, or 128 + the signal.
  int wait();

 private:
  bool read_some(int milliseconds);

  int terminal_ = -1;
  pid_t child_ = -1;
  std::string shown_;
};

}  // namespace coterie::cli::test
