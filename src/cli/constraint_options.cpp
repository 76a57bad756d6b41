#include "cli/constraint_options.h"

#include "base/error.h"
#include "cli/command_files.h"
#include "cli/help.h"
#include "cli/text_input.h"
#include "text/chat/grammar.h"

namespace coterie::cli {

namespace {

using text::ResponseFormat;

/// A schema is an object, or true or false: everything else names a file.
std::string schema_text(const std::string& argument) {
  const size_t first = argument.find_first_not_of(" \t\r\n");
  const bool is_text =
      first != std::string::npos && (argument[first] == '{' || argument == "true" || argument == "false");
  return is_text ? argument : file_contents(argument);
}

}  // namespace

void ConstraintOptions::add(CLI::App& app) {
  const Heading heading(app, kOutput);
  const auto filled = [](const std::string& value) {
    return value.empty() ? std::string("is empty: nothing would be asked for") : std::string();
  };
  CLI::Option* schema =
      app.add_option("--json-schema", schema_, "The text is JSON that fits this schema: a file, or the schema itself")
          ->type_name("FILE|SCHEMA")
          ->check(reads())
          ->check(CLI::Validator(filled, ""));
  CLI::Option* grammar =
      app.add_option("--grammar", grammar_, "The text is one of this grammar (Lark, with the rule start)")
          ->type_name("FILE")
          ->check(reads())
          ->check(CLI::Validator(filled, ""))
          ->excludes(schema);
  app.add_option("--regex", regex_, "The text as a whole matches this regular expression")
      ->type_name("REGEX")
      ->check(CLI::Validator(filled, ""))
      ->excludes(schema)
      ->excludes(grammar);
}

std::optional<text::Constraint> ConstraintOptions::make(const text::Tokenizer& tokenizer) const {
  if (!schema_.empty()) return text::Constraint::json_schema(tokenizer, schema_text(schema_), "--json-schema");
  if (!grammar_.empty()) return text::Constraint::lark(tokenizer, file_contents(grammar_), "--grammar");
  if (!regex_.empty()) return text::Constraint::regex(tokenizer, regex_, "--regex");
  return std::nullopt;
}

std::optional<text::Constraint> ConstraintOptions::make(const text::Tokenizer& tokenizer,
                                                        const text::ChatTemplate& chat_template,
                                                        const std::string& prompt) const {
  text::AnswerForm form;
  form.prompt = prompt;
  if (!schema_.empty()) form.response = {ResponseFormat::Kind::json_schema, schema_text(schema_), "--json-schema"};
  if (!grammar_.empty()) form.response = {ResponseFormat::Kind::lark, file_contents(grammar_), "--grammar"};
  if (!regex_.empty()) form.response = {ResponseFormat::Kind::regex, regex_, "--regex"};
  return text::answer_constraint(tokenizer, text::ChatSyntax::of(chat_template), form);
}

std::string ConstraintOptions::text() const {
  if (!schema_.empty()) return "schema " + schema_text(schema_);
  if (!grammar_.empty()) return "grammar " + file_contents(grammar_);
  return regex_.empty() ? "" : "regex " + regex_;
}

}  // namespace coterie::cli
