#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat/syntax.h"

namespace coterie::text {

/// A piece of an answer.
struct ChatEvent {
  enum class Kind {
    content,         // text: what the user reads
    reasoning,       // text: what the model thought before
    call_begin,      // id, name: a call of a function
    call_arguments,  // text: a piece of its arguments, which together are a JSON object
    call_end,
  };
  Kind kind;
  int64_t call = -1;  // which of the answer's calls, from 0
  std::string text = {}, id = {}, name = {};

  bool operator==(const ChatEvent&) const = default;
};

struct ChatParserOptions {
  std::string prompt = {};  // as rendered, which tells whether reasoning has begun in it
  // JSON text in OpenAI's form, as the grammar was given; empty: no calls are looked for.
  std::string tools = {};
  bool reasoning = true;  // false: reasoning stays in the content, with its marks
  // The id of the n-th call, where the syntax has none; call_0, call_1, … by default.
  std::function<std::string(int64_t call)> make_id = {};
};

/// Takes an answer apart while it is written. The events, joined, are the same however the text is cut into pieces.
/// Marks and the white space around them are left out. What begins like a call and is none is content.
class ChatParser {
 public:
  /// Throws bad_input for tools that read_tools() refuses.
  ChatParser(const ChatSyntax& syntax, ChatParserOptions options);
  ~ChatParser();
  ChatParser(ChatParser&&) noexcept;
  ChatParser& operator=(ChatParser&&) noexcept;

  /// The next piece of the answer, whole UTF-8 and decoded with special tokens where ChatSyntax::needs_special() asks
  /// for them. An event is as long as the piece allows; texts are whole UTF-8.
  std::vector<ChatEvent> push(std::string_view text);
  /// The answer is over: what was held back. A call that was cut off is not ended.
  std::vector<ChatEvent> finish();
  /// Calls that have begun.
  int64_t calls() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The events with neighbours of one kind (and call) joined: what the pieces come to.
std::vector<ChatEvent> joined(const std::vector<ChatEvent>& events);

}  // namespace coterie::text
