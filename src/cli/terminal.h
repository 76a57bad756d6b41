#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

namespace coterie::cli {

/// Whether stdout, stderr, stdin is a terminal.
bool stdout_is_terminal();
bool stderr_is_terminal();
bool stdin_is_terminal();

enum class Style { bold, dim, red, green, cyan };
/// The text in a style when stdout (or stderr) is a terminal and NO_COLOR is not set; else the text.
std::string styled(std::string_view text, Style style);
std::string styled_error(std::string_view text, Style style);

/// The text on a ground of its own for each number, when stdout is a terminal that shows 256 colours; else the text.
std::string on_colour(std::string_view text, int64_t number);
/// Columns of the terminal that stdout is; 80 when it is none or does not say.
int64_t terminal_columns();

/// "coterie: error: …" and the hint on stderr. Control characters in data are shown, not sent.
void print_error(std::string_view message, std::string_view hint);
void print_warning(std::string_view message);
/// One line of statistics or notice on stderr.
void print_note(std::string_view text);

/// Writes to stdout and flushes. Throws io when it cannot be written (a full disk).
void print(std::string_view text);
void flush_output();

/// A line on stderr that the next one overwrites, if stderr is a terminal; it is wiped at the end.
class Progress {
 public:
  Progress() = default;
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { clear(); }
  void show(std::string_view text);
  void clear();

 private:
  bool shown_ = false;
};

/// The exit code of what was interrupted, 128 and the number of the signal: 130 after Ctrl-C, 143 after SIGTERM, as
/// shells say it of a program that does not catch them.
int interrupted_code();

/// While it lives, Ctrl-C and SIGTERM raise the flag instead of ending the program.
class InterruptFlag {
 public:
  InterruptFlag();
  ~InterruptFlag();
  InterruptFlag(const InterruptFlag&) = delete;
  InterruptFlag& operator=(const InterruptFlag&) = delete;
  const std::atomic<bool>& flag() const;
  bool raised() const { return flag().load(); }
  /// Whether Ctrl-C says "stopping …" on stderr at once: while what it stops may take a moment to come back.
  void announce(bool wanted);
  void lower();
};

}  // namespace coterie::cli
