#include "text/chat/grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "text/chat/tools.h"

namespace coterie::text {

namespace {

using base::ErrorKind;
using Body = CallForm::Body;
using Mode = ToolChoice::Mode;

std::string literal(std::string_view text) { return base::Json(std::string(text)).dump(); }

/// A text as a regex, between slashes.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (std::string_view("\\/.^$|?*+()[]{}").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

/// Writes the rules of one answer.
class Grammar {
 public:
  Grammar(const Tokenizer& tokenizer, const ChatSyntax& syntax, const AnswerForm& form)
      : tokenizer_(tokenizer), syntax_(syntax), form_(form) {
    if (!form.tools.empty() && form.tool_choice.mode != Mode::none) choose_tools();
  }

  std::string write() {
    const bool any_text = form_.response.kind == ResponseFormat::Kind::text;
    if (tools_.empty() && any_text) return {};
    if (syntax_.channels()) return channels();
    if (tools_.empty()) return fmt::format("start: {} {}\n{}", reasoning(false), response(), rules_);
    const std::string calls = calls_after_begin();
    std::string start;
    if (form_.tool_choice.mode == Mode::automatic && any_text)
      start = with_free_text(calls);
    else if (form_.tool_choice.mode == Mode::automatic)
      start = fmt::format("{} ({} {} | {})", reasoning(true), begin(), calls, response());
    else
      start = fmt::format("{} {} {}", reasoning(true), begin(), calls);
    return "start: " + start + "\n" + rules_;
  }

 private:
  void choose_tools() {
    tools_ = read_tools(form_.tools);
    if (tools_.empty()) return;
    if (!syntax_.calls())
      throw base::Error(ErrorKind::unsupported, "tools",
                        "the model's chat template does not write calls in a syntax that is known",
                        "known are those of " + ChatSyntax::known_calls());
    if (form_.tool_choice.mode != Mode::named) return;
    std::erase_if(tools_, [&](const Tool& tool) { return tool.name != form_.tool_choice.name; });
    if (tools_.empty())
      base::fail(ErrorKind::bad_input, "tool_choice", "names the function \"{}\", which is not among the tools",
                 form_.tool_choice.name);
  }

  bool special(std::string_view mark) const {
    const std::optional<TokenId> id = tokenizer_.id(mark);
    return id && tokenizer_.is_special(*id);
  }
  /// A mark as its special token, or as text.
  std::string mark(std::string_view text) const {
    if (text.empty()) return {};
    return special(text) ? fmt::format("<[{}]>", *tokenizer_.id(text)) : literal(text);
  }
  /// Text that may hold marks.
  std::string marked(std::string_view text, std::string_view mark_in_it) const {
    const size_t at = text.find(mark_in_it);
    if (mark_in_it.empty() || at == std::string_view::npos || !special(mark_in_it)) return literal(text);
    std::string out;
    if (at > 0) out += literal(text.substr(0, at)) + " ";
    out += mark(mark_in_it);
    if (at + mark_in_it.size() < text.size()) out += " " + literal(text.substr(at + mark_in_it.size()));
    return out;
  }

  std::string rule(std::string_view name, std::string_view body) {
    rules_ += fmt::format("{}: {}\n", name, body);
    return std::string(name.substr(0, name.find('[')));
  }

  /// Anything up to and with a mark.
  std::string until(std::string_view name, std::string_view before, std::string_view text) {
    if (special(text)) return fmt::format("/{}(?s:.*)/ {}", before, mark(text));
    return rule(fmt::format("{}[lazy]", name), fmt::format("/{}(?s:.*){}/", before, escaped(text)));
  }

  bool opened() const { return syntax_.prompt_opens_reasoning(form_.prompt); }

  /// Reasoning, before what is not free text; `spaced`: white space is allowed where there is none, too. The lexer does
  /// not go back, so that no two terminals may begin alike: white space stands by itself.
  std::string reasoning(bool spaced) {
    constexpr std::string_view kSpace = "/[ \\n]{0,4}/";
    const ReasoningMarks* marks = syntax_.reasoning();
    if (!marks) return spaced ? std::string(kSpace) : "";
    if (opened()) return fmt::format("{} {}", until("reasoning", "", marks->end), kSpace);
    const std::string thought = special(marks->begin) ? mark(marks->begin) + " " + until("reasoning", "", marks->end)
                                                      : until("reasoning", escaped(marks->begin), marks->end);
    return fmt::format("{0} ({1} {0})?", kSpace, thought);
  }
  /// The same before free text, which begins with white space too.
  std::string reasoning_before_text() {
    const ReasoningMarks* marks = syntax_.reasoning();
    if (!marks) return {};
    if (opened()) return until("reasoning", "", marks->end);
    if (special(marks->begin)) return fmt::format("({} {})?", mark(marks->begin), until("reasoning", "", marks->end));
    return fmt::format("({})?", until("reasoning", "\\s*" + escaped(marks->begin), marks->end));
  }

  std::string response() {
    const ResponseFormat& response = form_.response;
    switch (response.kind) {
      case ResponseFormat::Kind::text: return "/(?s:.*)/";
      case ResponseFormat::Kind::json_object:
        return rule("response", "%json " + Constraint::embeddable_schema(tokenizer_, R"({"type": "object"})", "JSON"));
      case ResponseFormat::Kind::json_schema:
        return rule("response", "%json " + Constraint::embeddable_schema(tokenizer_, response.text, response.where));
      case ResponseFormat::Kind::regex:
        (void)Constraint::regex(tokenizer_, response.text, response.where);
        return rule("response", regex_rule(response.text));
      case ResponseFormat::Kind::lark:
        (void)Constraint::lark(tokenizer_, response.text, response.where);
        return rule("response", "%lark {\n" + response.text + "\n}");
    }
    return {};
  }
  /// A slash and a line break end a regex in Lark.
  static std::string regex_rule(std::string_view expression) {
    std::string out = "/";
    for (size_t i = 0; i < expression.size(); ++i) {
      if (expression[i] == '\\' && i + 1 < expression.size())
        out += expression.substr(i++, 2);
      else if (expression[i] == '/')
        out += "\\/";
      else if (expression[i] == '\n')
        out += "\\n";
      else
        out += expression[i];
    }
    return out + "/";
  }

  /// What begins the first call.
  std::string begin() const {
    const CallForm& form = *syntax_.calls();
    if (form.begin.empty()) return special("<|python_tag|>") ? mark("<|python_tag|>") + "?" : "";
    return form.section_begin.empty() ? mark(form.begin) : mark(form.section_begin);
  }

  /// All calls, after begin().
  std::string calls_after_begin() {
    const CallForm& form = *syntax_.calls();
    std::string one;
    for (size_t i = 0; i < tools_.size(); ++i) one += (i ? " | " : "") + call(tools_[i], i);
    one = rule("call", one);
    if (form.body == Body::list) {
      const std::string more = form_.parallel_calls ? fmt::format(" (/, ?/ {})*", one) : "";
      return fmt::format("/ ?\\[/ {}{} \"]\"", one, more);
    }
    std::string between = form.between.empty() ? "" : literal(form.between) + " ";
    if (form.body == Body::tags && !form.value_open.empty()) between = "/\\n?/ ";
    std::string calls = one;
    if (!form.section_begin.empty()) {
      calls = mark(form.begin) + " " + one;
      if (form_.parallel_calls) calls += fmt::format(" ({}{} {})*", between, mark(form.begin), one);
      return calls + " " + mark(form.section_end);
    }
    // The answer of Llama is one call.
    if (form_.parallel_calls && !form.begin.empty())
      calls += fmt::format(" ({}{} {})*", between, mark(form.begin), one);
    return calls;
  }

  std::string json(const Tool& tool, size_t index) {
    return rule(fmt::format("arguments_{}", index),
                "%json " + Constraint::embeddable_schema(tokenizer_, tool.parameters, tool.where));
  }

  /// One call, after the mark that begins it.
  std::string call(const Tool& tool, size_t index) {
    const CallForm& form = *syntax_.calls();
    const std::string end = form.end.empty() ? "" : " " + mark(form.end);
    switch (form.body) {
      case Body::object: {
        const bool lines = !form.begin.empty();
        const std::string closing = lines ? literal("}\n") + end : literal("}");
        return fmt::format(
            "{} {} {}",
            literal(fmt::format("{}{{\"name\": {}, \"{}\": ", lines ? "\n" : "", literal(tool.name), form.arguments)),
            json(tool, index), closing);
      }
      case Body::list:
        return fmt::format("{} {} /(, \"id\": \"[a-zA-Z0-9]{{9}}\")?}}/",
                           literal(fmt::format("{{\"name\": {}, \"{}\": ", literal(tool.name), form.arguments)),
                           json(tool, index));
      case Body::named: {
        std::string out;
        if (!form.before_name.empty()) out += marked(form.before_name, "<｜tool▁sep｜>") + " ";
        out += literal(tool.name) + " ";
        if (!form.id_mark.empty()) out += fmt::format("({} /[a-zA-Z0-9]{{9}}/)? ", mark(form.id_mark));
        out += mark(form.after_name) + " " + json(tool, index);
        if (!form.after_arguments.empty()) out += " " + literal(form.after_arguments);
        return out + end;
      }
      case Body::tags: return tagged_call(tool, index) + end;
      case Body::channels: break;
    }
    return {};
  }

  std::string tagged_call(const Tool& tool, size_t index) {
    const CallForm& form = *syntax_.calls();
    // JSON is checked as a whole first, so that what is wrong is placed.
    (void)Constraint::embeddable_schema(tokenizer_, tool.parameters, tool.where);
    // Values stand on lines of their own, or line breaks are free.
    const bool lines = form.value_open.empty();
    const std::string_view free = lines ? "" : " /\\n?/ ";
    std::string out =
        lines ? literal(fmt::format("\n{}{}{}\n", form.name_open, tool.name, form.name_close)) : literal(tool.name);
    const std::vector<TagArgument> arguments = tag_arguments(tool);
    for (size_t i = 0; i < arguments.size(); ++i) {
      const TagArgument& argument = arguments[i];
      const std::string key =
          literal(fmt::format("{}{}{}{}", form.key_open, argument.key, form.key_close, lines ? "\n" : ""));
      const std::string opening = lines ? key : fmt::format("{}{}{}{}", free, key, free, literal(form.value_open));
      const std::string closing = lines ? fmt::format("\n{}\n", form.value_close) : std::string(form.value_close);
      std::string value;
      if (argument.value.text) {
        const std::string terminal = fmt::format("TEXT_{}_{}", index, i);
        rules_ += fmt::format("{}: ({}) {}\n", terminal, argument.value.terminal, literal(closing));
        value = rule(fmt::format("text_{}_{}[lazy]", index, i), terminal);
      } else {
        value = rule(fmt::format("value_{}_{}", index, i),
                     "%json " + Constraint::embeddable_schema(tokenizer_, argument.value.schema, tool.where)) +
                " " + literal(closing);
      }
      out += fmt::format(" ({} {}){}", opening, value, argument.required ? "" : "?");
    }
    if (!form.close.empty()) out += " " + literal(std::string(form.close) + "\n");
    return out + std::string(free);
  }

  /// Text, or text and calls.
  std::string with_free_text(const std::string& calls) {
    const std::string reasoning = reasoning_before_text();
    const CallForm& form = *syntax_.calls();
    if (form.begin.empty()) {
      // An answer that begins with { is a call.
      rules_ += "PLAIN: /(\\s*[^{\\s](?s:.*))?/\n";
      return fmt::format("{0} PLAIN | {0} {1} {2}", reasoning, begin(), calls);
    }
    const std::string_view first = form.section_begin.empty() ? form.begin : form.section_begin;
    // What could begin reasoning is reasoning.
    const ReasoningMarks* marks = syntax_.reasoning();
    std::string free = "/(?s:.*)/";
    if (marks && !special(marks->begin) && !opened()) free += fmt::format(" & ~/\\s*{}(?s:.*)/", escaped(marks->begin));
    if (special(first)) {
      rules_ += fmt::format("FREE: {}\n", free);
      return fmt::format("{} FREE ({} {})?", reasoning, mark(first), calls);
    }
    rules_ += fmt::format("FREE: {} & ~/(?s:.*){}(?s:.*)/\n", free, escaped(first));
    rules_ += fmt::format("BEFORE: ({}) {}\n", free, literal(first));
    rules_ += "before[lazy]: BEFORE\n";
    return fmt::format("{0} FREE | {0} before {1}", reasoning, calls);
  }

  /// gpt-oss: the prompt ends with <|start|>assistant.
  std::string channels() {
    const std::string channel = mark("<|channel|>"), message = mark("<|message|>");
    const std::string again = fmt::format("{} \"assistant\"", mark("<|start|>"));
    const std::string analysis =
        fmt::format("({} \"analysis\" {} {} {})*", channel, message, until("thoughts", "", "<|end|>"), again);
    const bool automatic = form_.tool_choice.mode == Mode::automatic;
    std::vector<std::string> answers;
    if (tools_.empty() || automatic) answers.push_back(fmt::format("{} \"final\" {} {}", channel, message, response()));
    if (!tools_.empty()) {
      const std::string json = fmt::format("(\" \" {}? \"json\")?", mark("<|constrain|>"));
      std::string calls, calls_to;
      for (size_t i = 0; i < tools_.size(); ++i) {
        const std::string arguments = fmt::format("{} {} {} {}", json, message, this->json(tools_[i], i), call_end());
        const std::string_view separator = i ? " | " : "";
        calls += fmt::format("{}{} {}", separator, literal(tools_[i].name), arguments);
        calls_to += fmt::format("{}{} {} \"commentary\" {} {} arguments_{} {}", separator, literal(tools_[i].name),
                                channel, json, message, i, call_end());
      }
      // Something may be told to the user before a call.
      const std::string preamble = automatic ? fmt::format("({} \"commentary\" {} {} {})?", channel, message,
                                                           until("preamble", "", "<|end|>"), again)
                                             : "";
      answers.push_back(fmt::format("{} ({} \"commentary to=functions.\" {} | \" to=functions.\" {})", preamble,
                                    channel, rule("call", calls), rule("call_to", calls_to)));
    }
    return fmt::format("start: {} ({})\n{}", analysis, fmt::join(answers, " | "), rules_);
  }
  /// Where <|call|> ends the answer it is allowed as end tokens are.
  std::string call_end() const {
    const std::vector<TokenId>& ends = tokenizer_.end_tokens();
    const std::optional<TokenId> id = tokenizer_.id("<|call|>");
    return id && std::find(ends.begin(), ends.end(), *id) != ends.end() ? "" : mark("<|call|>");
  }

  const Tokenizer& tokenizer_;
  const ChatSyntax& syntax_;
  const AnswerForm& form_;
  std::vector<Tool> tools_;
  std::string rules_;
};

}  // namespace

std::string answer_grammar(const Tokenizer& tokenizer, const ChatSyntax& syntax, const AnswerForm& form) {
  return Grammar(tokenizer, syntax, form).write();
}

std::optional<Constraint> answer_constraint(const Tokenizer& tokenizer, const ChatSyntax& syntax,
                                            const AnswerForm& form) {
  const std::string grammar = answer_grammar(tokenizer, syntax, form);
  if (grammar.empty()) return std::nullopt;
  return Constraint::lark(tokenizer, grammar, form.tools.empty() ? form.response.where : "tools");
}

}  // namespace coterie::text
