#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/chat/syntax.h"
#include "text/constraint.h"

namespace coterie::text {

struct ToolChoice {
  enum class Mode { none, automatic, required, named };
  Mode mode = Mode::automatic;
  std::string name = {};  // named
};

/// What an answer without calls has to be.
struct ResponseFormat {
  enum class Kind { text, json_object, json_schema, regex, lark };
  Kind kind = Kind::text;
  std::string text = {};                  // the schema, expression or grammar
  std::string where = "response_format";  // whose fault it is, for messages
};

/// What a request asks of the form of its answer.
struct AnswerForm {
  std::string tools = {};  // JSON text in OpenAI's form; empty: no tools
  ToolChoice tool_choice = {};
  bool parallel_calls = true;  // whether there may be several calls
  ResponseFormat response = {};
  std::string prompt = {};  // as rendered, which tells whether reasoning has begun in it
};

/// The constraint that keeps an answer to `form`: reasoning where the template has it, then text in the response's form
/// or calls as the template writes them, each with arguments that fit the schema of its function. Nothing where all
/// texts are allowed. Throws unsupported, naming "tools", for a template without a known syntax of calls, and bad_input
/// naming the place (tools[0].function.parameters, at /properties/x …) for what cannot be kept.
std::optional<Constraint> answer_constraint(const Tokenizer& tokenizer, const ChatSyntax& syntax,
                                            const AnswerForm& form);

/// The grammar of it, in llguidance's Lark; empty where all texts are allowed.
std::string answer_grammar(const Tokenizer& tokenizer, const ChatSyntax& syntax, const AnswerForm& form);

}  // namespace coterie::text
