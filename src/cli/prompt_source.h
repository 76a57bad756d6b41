#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace coterie::cli {

/// --prompt, --file or a pipe: where commands that read one text get it from.
struct PromptSource {
  std::string prompt, file;
  bool escape = false;

  /// `what` the text is for, as in "The text to continue". Returns --prompt.
  CLI::Option* add(CLI::App& app, const std::string& what);
  /// The text, which may be empty where it was given as such. Throws bad_input when there is none: nothing was given
  /// and stdin is a terminal, or empty.
  std::string read() const;

 private:
  CLI::Option* given_ = nullptr;  // --prompt, which may be empty
};

}  // namespace coterie::cli
