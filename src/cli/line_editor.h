#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/chat_history.h"
#include "cli/line_reader.h"

namespace coterie::cli {

/// What Tab may put in the place of the text before the cursor.
struct Completion {
  size_t keep = 0;                   // bytes of that text that stay
  std::vector<std::string> choices;  // what may follow them
};
using Completer = std::function<Completion(std::string_view before_cursor)>;

/// Lines typed at a terminal, edited with libedit: arrows, history, Ctrl-R, completion by Tab, UTF-8. Text that a
/// terminal pastes in brackets is one piece, line breaks included; Alt-Enter makes a line break. There is no limit to
/// the length of a line. Keys in ~/.editrc hold. From the first to the last use the terminal hands over keys as they
/// are typed and shows nothing of itself, so that what is typed during an answer is not lost either.
class LineEditor {
 public:
  LineEditor(ChatHistory& history, Completer complete);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  /// Whether stdin and stdout are a terminal that can move its cursor.
  static bool possible();

  /// One line, without its end. `given`: what stands in it at first. Bytes that are not UTF-8 come back as they were
  /// typed. Ctrl-C comes back as `interrupted`.
  LineReader::Outcome next(std::string_view prompt, std::string_view given, std::string& line);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coterie::cli
