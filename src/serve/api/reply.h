#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serve/api/chat_prompt.h"
#include "serve/request.h"
#include "text/chat/grammar.h"
#include "text/chat/parser.h"

namespace coterie::serve {

/// What a piece of an assistant's text adds to its message.
struct ReplyDelta {
  struct Call {
    size_t index = 0;
    std::string id, name;   // with the first delta of a call
    std::string arguments;  // JSON text, piece by piece
  };
  std::string content, reasoning;
  std::vector<Call> calls;
  bool empty() const { return content.empty() && reasoning.empty() && calls.empty(); }
  void add(ReplyDelta more);
};

/// What a chat request wants of the form of its answer.
struct ReplyForm {
  bool split_reasoning = true;
  text::ChatSyntax syntax;
  text::AnswerForm answer;  // its tools are empty where none may be called
  std::optional<text::Constraint> constraint;
};

/// The fields tools, tool_choice, parallel_tool_calls, reasoning_format and those of read_response_format(); puts the
/// tools into the template's input. Throws ApiError 400 for what cannot be held.
ReplyForm read_reply_form(Fields& fields, const OrderedJson& body, ChatInput& input, const ServedModel& model);
/// Makes the constraint, once the prompt is known. Throws base::Error naming the place in a schema that cannot be kept.
void constrain(ReplyForm& form, std::string prompt, const ServedModel& model);
/// What the scheduler has to know of the form; each request gets a constraint of its own.
void apply(const ReplyForm& form, const ServedModel& model, Request& request);

/// response_format, and the fields of other servers that say the same: structured_outputs and guided_… of vLLM,
/// json_schema of llama.cpp.
text::ResponseFormat read_response_format(Fields& fields, const OrderedJson& body);
/// For texts that are not chats.
void constrain(const text::ResponseFormat& format, const ServedModel& model, Request& request);

/// Takes an assistant's text apart as it comes: reasoning, content, calls of tools.
class Reply {
 public:
  Reply(const ReplyForm& form);
  /// The text that became certain with a token, or at the end without one.
  ReplyDelta push(std::string_view text, bool token = true);
  /// At the end, what was held back.
  ReplyDelta finish();
  /// Tokens whose text was reasoning, its marks included.
  int64_t reasoning_tokens() const { return reasoning_tokens_; }

 private:
  text::ChatParser parser_;
  bool in_reasoning_;
  int64_t reasoning_tokens_ = 0, undecided_ = 0;  // undecided: tokens since then that no text came of
};

}  // namespace coterie::serve
