#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "text/constraint.h"

namespace coterie::cli {

/// What the text that a command generates has to be: --json-schema, --grammar, --regex.
class ConstraintOptions {
 public:
  /// Under the heading of the output.
  void add(CLI::App& app);
  bool given() const { return !schema_.empty() || !grammar_.empty() || !regex_.empty(); }
  /// Reads the files; what errors name is the option. Nothing where none was given.
  std::optional<text::Constraint> make(const text::Tokenizer& tokenizer) const;
  /// The same for an answer to a rendered prompt, which may begin with reasoning where the template has it.
  std::optional<text::Constraint> make(const text::Tokenizer& tokenizer, const text::ChatTemplate& chat_template,
                                       const std::string& prompt) const;
  /// The option that was given.
  std::string name() const { return !schema_.empty() ? "--json-schema" : !grammar_.empty() ? "--grammar" : "--regex"; }
  /// What of it changes an answer, for comparing runs.
  std::string text() const;

 private:
  std::string schema_, grammar_, regex_;
};

}  // namespace coterie::cli
