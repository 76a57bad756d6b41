#pragma once

#include <optional>
#include <string>

#include "cli/line_editor.h"
#include "cli/line_reader.h"

namespace coterie::cli {

/// What is typed in a chat, or comes through a pipe, message by message: a line, lines that end with \ and the one
/// after them, lines between """ and """, or what a terminal pastes.
class MessageReader {
 public:
  /// An empty path of `history` keeps none.
  explicit MessageReader(const std::filesystem::path& history);

  /// `given`: text to begin with, at a terminal. Throws bad_input, having read it, for a message that is not UTF-8 and
  /// for a line that the terminal has cut.
  LineReader::Outcome next(std::string& message, std::string_view given = {});
  /// Whether somebody sits there who can be asked and shown things.
  bool interactive() const { return interactive_; }
  /// Whether lines can be edited.
  bool edits() const { return editor_.has_value(); }
  /// Why what was typed is not kept, once; empty when it is.
  std::string problem();

 private:
  LineReader::Outcome line(std::string& line, bool first, std::string_view given);

  const bool interactive_;
  ChatHistory history_;
  std::optional<LineEditor> editor_;
  LineReader lines_;
  bool told_ = false;
};

}  // namespace coterie::cli
