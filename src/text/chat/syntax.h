#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

// How the answers of chat models are written: the marks around calls of tools and around reasoning, as their chat
// templates write them.
namespace coterie::text {

/// What Llama writes before a call that is code.
inline constexpr std::string_view kPythonTag = "<|python_tag|>";

/// The marks of a family's calls.
struct CallForm {
  enum class Body {
    object,    // {"name": "f", "arguments": {…}}
    list,      // [{"name": "f", "arguments": {…}}, …]
    named,     // f, a mark, {…}
    tags,      // f, then each argument between marks of its own
    channels,  // gpt-oss's: headers name the recipient
  };
  std::string_view name;
  Body body;
  std::string_view begin, end;  // around each call; an empty begin: the answer itself is a call
  std::string_view section_begin = {}, section_end = {};  // around all calls
  std::string_view arguments = "arguments";               // object, list: the key of the arguments
  // named: `before_name` f `after_name` {…} `after_arguments`. An id may stand between f and after_name, after
  // `id_mark`.
  std::string_view before_name = {}, after_name = {}, after_arguments = {}, id_mark = {};
  // tags: `name_open` f `name_close`, for each argument `key_open` k `key_close` `value_open` v `value_close`, `close`.
  std::string_view name_open = {}, name_close = {}, key_open = {}, key_close = {}, value_open = {}, value_close = {},
                   close = {};
  std::string_view between = {};  // what the template writes between two calls
};

/// Where reasoning begins and ends.
struct ReasoningMarks {
  std::string_view begin, end;
};

/// What a chat template says of the answers it expects.
class ChatSyntax {
 public:
  /// No calls, no reasoning: an answer is its text.
  ChatSyntax() = default;
  /// By the marks in the template's text.
  static ChatSyntax of(const ChatTemplate& chat_template) { return of_source(chat_template.source()); }
  static ChatSyntax of_source(std::string_view source);
  /// The names of all known syntaxes of calls, for messages.
  static std::string known_calls();

  /// Nothing where the template has no known syntax of calls.
  const CallForm* calls() const { return calls_; }
  const ReasoningMarks* reasoning() const { return reasoning_; }
  /// gpt-oss's channels, which carry both.
  bool channels() const { return calls_ && calls_->body == CallForm::Body::channels; }

  /// Whether a rendered prompt ends within reasoning that the template has begun.
  bool prompt_opens_reasoning(std::string_view prompt) const;
  /// Whether one of its marks is a special token of the vocabulary: answers must then be decoded with special tokens
  /// shown (StreamDecoder's skip_special = false), or the marks are lost.
  bool needs_special(const Tokenizer& tokenizer) const;
  /// All its marks.
  std::vector<std::string_view> marks() const;

 private:
  const CallForm* calls_ = nullptr;
  const ReasoningMarks* reasoning_ = nullptr;
};

}  // namespace coterie::text
