#include "text/chat/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "text/chat/call_reader.h"
#include "text/chat/json_scanner.h"

namespace coterie::text {

/// One character after the other, so that no cut of the text can matter.
struct ChatParser::State final : CallSink {
  enum class At {
    lead,       // white space, and perhaps what begins reasoning
    reasoning,  //
    content,
    section,  // between the calls of a section
    call,
    header,  // of a channel, up to <|message|>
    body,    // of a channel
  };

  State(const ChatSyntax& chat_syntax, ChatParserOptions given) : syntax(chat_syntax), options(std::move(given)) {
    if (!options.reasoning) reasoning = nullptr;
    std::vector<Tool> tools;
    if (!options.tools.empty()) tools = read_tools(options.tools);
    if (!tools.empty()) form = syntax.calls();
    if (form && form->body == CallForm::Body::tags)
      for (const Tool& tool : tools)
        for (TagArgument& argument : tag_arguments(tool)) values[tool.name][argument.key] = std::move(argument.value);
    if (syntax.channels())
      at = At::header;
    else if (reasoning && syntax.prompt_opens_reasoning(options.prompt))
      at = At::reasoning, section_of_text(false);
  }

  // --- What comes out ---

  void emit(ChatEvent::Kind of, std::string_view text) {
    if (text.empty()) return;
    const int64_t call = of == ChatEvent::Kind::call_arguments ? count - 1 : -1;
    if (!events.empty() && events.back().kind == of && events.back().call == call)
      events.back().text += text;
    else
      events.push_back({of, call, std::string(text), {}, {}});
  }
  /// Text whose white space at the beginning and the end is left out.
  void say(ChatEvent::Kind of, std::string_view text) {
    for (const char c : text) {
      if (is_space(c)) {
        spaces += c;
        continue;
      }
      if (said || keep_leading) emit(of, spaces);
      spaces.clear();
      said = true;
      emit(of, std::string_view(&c, 1));
    }
  }
  void section_of_text(bool leading) {
    spaces.clear();
    said = false;
    keep_leading = leading;
  }

  void begin(const std::string& name, const std::string& id) override {
    ++count;
    begun = true;
    ChatEvent event{ChatEvent::Kind::call_begin, count - 1, {}, id, name};
    if (id.empty()) event.id = options.make_id ? options.make_id(count - 1) : fmt::format("call_{}", count - 1);
    events.push_back(std::move(event));
    raw.clear();
  }
  void arguments(std::string_view text) override { emit(ChatEvent::Kind::call_arguments, text); }
  void end() override { events.push_back({ChatEvent::Kind::call_end, count - 1, {}, {}, {}}); }

  // --- What goes in ---

  /// Adds a character to what may be a mark; what is certain not to be part of one goes to `text`. The mark's number
  /// once it is complete.
  int match(char c, const std::vector<std::string_view>& marks, std::string& text) {
    held += c;
    while (!held.empty()) {
      for (size_t i = 0; i < marks.size(); ++i)
        if (!marks[i].empty() && held == marks[i]) {
          held.clear();
          return static_cast<int>(i);
        }
      if (std::any_of(marks.begin(), marks.end(), [&](std::string_view mark) { return mark.starts_with(held); }))
        return -1;
      text += held.front();
      held.erase(0, 1);
    }
    return -1;
  }

  void push(char c) {
    std::string text;
    switch (at) {
      case At::lead: return lead(c);
      case At::reasoning:
        if (match(c, {reasoning->end}, text) >= 0) {
          say(ChatEvent::Kind::reasoning, text);
          section_of_text(false);
          at = At::content;
          at_beginning = true;
        } else {
          say(ChatEvent::Kind::reasoning, text);
        }
        return;
      case At::content: return content(c);
      case At::section:
        if (const int mark = match(c, {form->begin, form->section_end}, text); mark == 0)
          begin_call();
        else if (mark == 1)
          at = At::content;
        return;
      case At::call: return call(c);
      case At::header:
        if (match(c, {"<|message|>"}, header) >= 0) begin_body();
        return;
      case At::body: return body(c);
    }
  }

  void lead(char c) {
    if (held.empty() && is_space(c)) {
      spaces += c;
      return;
    }
    if (!reasoning) {
      at = At::content;
      return content(c);
    }
    held += c;
    if (held == reasoning->begin) {
      held.clear();
      section_of_text(false);
      at = At::reasoning;
    } else if (!reasoning->begin.starts_with(held)) {
      at = At::content;
      const std::string again = std::exchange(held, {});
      for (const char one : again) content(one);
    }
  }

  void content(char c) {
    if (!form) return say(ChatEvent::Kind::content, std::string_view(&c, 1));
    if (form->begin.empty()) return content_or_call(c);
    std::string text;
    const std::string_view begin = form->section_begin.empty() ? form->begin : form->section_begin;
    const int mark = match(c, {begin}, text);
    say(ChatEvent::Kind::content, text);
    if (mark < 0) return;
    if (form->section_begin.empty())
      begin_call();
    else
      at = At::section;
  }

  /// Llama: an answer that begins with { is a call; so may be what follows a call, after a semicolon.
  void content_or_call(char c) {
    if (!at_beginning) return say(ChatEvent::Kind::content, std::string_view(&c, 1));
    if (held.empty() && (is_space(c) || (count > 0 && c == ';'))) {
      if (is_space(c)) spaces += c;
      return;
    }
    if (held.empty() && c == '{') {
      begin_call();
      return call(c);
    }
    held += c;
    if (held == kPythonTag) {
      held.clear();
    } else if (!kPythonTag.starts_with(held)) {
      at_beginning = false;
      say(ChatEvent::Kind::content, std::exchange(held, {}));
    }
  }

  void begin_call() {
    reader = make_call_reader(*form, values);
    raw.clear();
    begun = false;
    at = At::call;
  }

  void call(char c) {
    raw += c;
    const CallReader::State state = reader->push(c, *this);
    if (state == CallReader::State::more) return;
    reader.reset();
    if (state == CallReader::State::done) {
      section_of_text(false);
      at = form->section_begin.empty() ? At::content : At::section;
      raw.clear();
      return;
    }
    not_a_call();
  }
  void not_a_call() {
    say(ChatEvent::Kind::content, form->begin);
    say(ChatEvent::Kind::content, std::exchange(raw, {}));
    at = At::content;
    at_beginning = false;
  }

  // --- Channels ---

  /// "<|channel|>analysis", "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json", …
  void begin_body() {
    const auto word_after = [&](std::string_view mark) -> std::string {
      const size_t at_mark = header.find(mark);
      if (at_mark == std::string::npos) return {};
      const size_t first = at_mark + mark.size();
      return header.substr(first, header.find_first_of(" <\n", first) - first);
    };
    const std::string channel = word_after("<|channel|>"), recipient = word_after("to=");
    at = At::body;
    in_call = form && recipient.starts_with("functions.");
    kind = channel == "analysis" && options.reasoning ? ChatEvent::Kind::reasoning : ChatEvent::Kind::content;
    if (in_call) {
      begin(recipient.substr(std::string_view("functions.").size()), "");
      scanner = {};
      whole = false;
    } else {
      section_of_text(false);
      // Two bodies of one kind are paragraphs.
      if (std::exchange(had[kind == ChatEvent::Kind::reasoning ? 0 : 1], true)) {
        spaces = "\n\n";
        keep_leading = true;
      }
    }
    header.clear();
  }

  void body(char c) {
    std::string text;
    const int mark = match(c, {"<|end|>", "<|call|>", "<|return|>", "<|start|>"}, text);
    say_in_body(text);
    if (mark >= 0) end_body();
  }
  void say_in_body(std::string_view text) {
    if (!in_call) return say(kind, text);
    arguments(text);
    for (const char c : text) whole |= scanner.push(c) == JsonScanner::State::ends_here;
  }
  void end_body() {
    if (in_call) end();
    in_call = false;
    at = At::header;
  }

  void finish() {
    switch (at) {
      case At::lead:
      case At::content: {
        const bool nothing_else = count == 0;
        say(ChatEvent::Kind::content, std::exchange(held, {}));
        // White space at the end belongs to a text that nothing follows.
        if (nothing_else && (said || keep_leading)) emit(ChatEvent::Kind::content, spaces);
        break;
      }
      case At::reasoning: say(ChatEvent::Kind::reasoning, std::exchange(held, {})); break;
      case At::call:
        // Cut off before it was known to be a call.
        if (!begun) {
          not_a_call();
          emit(ChatEvent::Kind::content, spaces);
        }
        break;
      case At::section: break;
      case At::header:
        // Text without any channel.
        header += held;
        if (header.find("<|") == std::string::npos) say(ChatEvent::Kind::content, header);
        break;
      case At::body:
        say_in_body(std::exchange(held, {}));
        // <|call|> is an end token, which does not become text: a call is over when its arguments are.
        if (whole) end_body();
        break;
    }
  }

  ChatSyntax syntax;
  ChatParserOptions options;
  const ReasoningMarks* reasoning = syntax.reasoning();
  const CallForm* form = nullptr;
  TagValues values;

  At at = At::lead;
  std::string held;    // what may be the beginning of a mark
  std::string spaces;  // white space that is said when something follows it
  bool said = false, keep_leading = true, at_beginning = true, begun = false;
  std::unique_ptr<CallReader> reader;
  std::string raw;  // of a call that is not yet known to be one
  int64_t count = 0;
  std::string header;
  bool in_call = false, whole = false, had[2] = {false, false};
  JsonScanner scanner;  // of the arguments of a call in a channel
  ChatEvent::Kind kind = ChatEvent::Kind::content;
  std::vector<ChatEvent> events;
};

ChatParser::ChatParser(const ChatSyntax& syntax, ChatParserOptions options)
    : state_(std::make_unique<State>(syntax, std::move(options))) {}
ChatParser::~ChatParser() = default;
ChatParser::ChatParser(ChatParser&&) noexcept = default;
ChatParser& ChatParser::operator=(ChatParser&&) noexcept = default;

std::vector<ChatEvent> ChatParser::push(std::string_view text) {
  for (const char c : text) state_->push(c);
  return std::exchange(state_->events, {});
}

std::vector<ChatEvent> ChatParser::finish() {
  state_->finish();
  return std::exchange(state_->events, {});
}

int64_t ChatParser::calls() const { return state_->count; }

std::vector<ChatEvent> joined(const std::vector<ChatEvent>& events) {
  std::vector<ChatEvent> out;
  for (const ChatEvent& event : events) {
    const bool text = !event.text.empty();
    if (text && !out.empty() && out.back().kind == event.kind && out.back().call == event.call &&
        !out.back().text.empty())
      out.back().text += event.text;
    else
      out.push_back(event);
  }
  return out;
}

}  // namespace coterie::text
