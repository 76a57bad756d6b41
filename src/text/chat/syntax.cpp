#include "text/chat/syntax.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace coterie::text {

namespace {

using Body = CallForm::Body;

// Each with the words by which a template that writes it is known. The first that has all of them is taken.
struct Known {
  CallForm form;
  std::vector<std::string_view> words;
};

const std::vector<Known>& known() {
  static const std::vector<Known> all = [] {
    std::vector<Known> forms;
    forms.push_back({{.name = "Harmony", .body = Body::channels, .begin = {}, .end = {}},
                     {"<|channel|>", "<|message|>", "<|start|>"}});
    forms.push_back({{.name = "Qwen3-Coder",
                      .body = Body::tags,
                      .begin = "<tool_call>",
                      .end = "</tool_call>",
                      .name_open = "<function=",
                      .name_close = ">",
                      .key_open = "<parameter=",
                      .key_close = ">",
                      .value_close = "</parameter>",
                      .close = "</function>",
                      .between = "\n"},
                     {"<tool_call>", "<function=", "<parameter="}});
    forms.push_back({{.name = "GLM",
                      .body = Body::tags,
                      .begin = "<tool_call>",
                      .end = "</tool_call>",
                      .name_close = "\n",
                      .key_open = "<arg_key>",
                      .key_close = "</arg_key>",
                      .value_open = "<arg_value>",
                      .value_close = "</arg_value>",
                      .between = "\n"},
                     {"<tool_call>", "<arg_key>", "<arg_value>"}});
    forms.push_back({{.name = "DeepSeek-V3",
                      .body = Body::named,
                      .begin = "<｜tool▁call▁begin｜>",
                      .end = "<｜tool▁call▁end｜>",
                      .section_begin = "<｜tool▁calls▁begin｜>",
                      .section_end = "<｜tool▁calls▁end｜>",
                      .before_name = "function<｜tool▁sep｜>",
                      .after_name = "\n```json\n",
                      .after_arguments = "\n```",
                      .between = "\n"},
                     {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "```json"}});
    forms.push_back({{.name = "DeepSeek-V3.1",
                      .body = Body::named,
                      .begin = "<｜tool▁call▁begin｜>",
                      .end = "<｜tool▁call▁end｜>",
                      .section_begin = "<｜tool▁calls▁begin｜>",
                      .section_end = "<｜tool▁calls▁end｜>",
                      .after_name = "<｜tool▁sep｜>"},
                     {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"}});
    forms.push_back({{.name = "Mistral, by name",
                      .body = Body::named,
                      .begin = "[TOOL_CALLS]",
                      .end = {},
                      .after_name = "[ARGS]",
                      .id_mark = "[CALL_ID]"},
                     {"[TOOL_CALLS]", "[ARGS]"}});
    forms.push_back({{.name = "Mistral", .body = Body::list, .begin = "[TOOL_CALLS]", .end = {}}, {"[TOOL_CALLS]"}});
    forms.push_back({{.name = "Granite", .body = Body::list, .begin = "<|tool_call|>", .end = {}}, {"<|tool_call|>"}});
    forms.push_back(
        {{.name = "Hermes", .body = Body::object, .begin = "<tool_call>", .end = "</tool_call>", .between = "\n"},
         {"<tool_call>", "</tool_call>", "arguments"}});
    for (const std::string_view header : {"<|start_header_id|>", "<|header_start|>", "<|python_tag|>"})
      forms.push_back({{.name = "Llama", .body = Body::object, .begin = {}, .end = {}, .arguments = "parameters"},
                       {header, "\"parameters\""}});
    return forms;
  }();
  return all;
}

constexpr ReasoningMarks kReasoning[] = {{"<think>", "</think>"},
                                         {"[THINK]", "[/THINK]"},
                                         {"<seed:think>", "</seed:think>"},
                                         {"<|START_THINKING|>", "<|END_THINKING|>"}};

}  // namespace

ChatSyntax ChatSyntax::of_source(std::string_view source) {
  const auto has = [&](std::string_view word) { return source.find(word) != std::string_view::npos; };
  ChatSyntax syntax;
  for (const Known& one : known()) {
    if (!std::all_of(one.words.begin(), one.words.end(), has)) continue;
    syntax.calls_ = &one.form;
    break;
  }
  for (const ReasoningMarks& marks : kReasoning)
    if (!syntax.channels() && !syntax.reasoning_ && has(marks.end)) syntax.reasoning_ = &marks;
  return syntax;
}

std::string ChatSyntax::known_calls() {
  std::vector<std::string_view> names;
  for (const Known& one : known())
    if (std::find(names.begin(), names.end(), one.form.name) == names.end()) names.push_back(one.form.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

bool ChatSyntax::prompt_opens_reasoning(std::string_view prompt) const {
  if (!reasoning_) return false;
  const size_t begin = prompt.rfind(reasoning_->begin);
  if (begin == std::string_view::npos) return false;
  prompt.remove_prefix(begin + reasoning_->begin.size());
  return prompt.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

std::vector<std::string_view> ChatSyntax::marks() const {
  std::vector<std::string_view> all;
  if (reasoning_) all.insert(all.end(), {reasoning_->begin, reasoning_->end});
  if (channels())
    all.insert(all.end(), {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>"});
  else if (calls_)
    for (const std::string_view mark :
         {calls_->begin.empty() ? kPythonTag : calls_->begin, calls_->end, calls_->section_begin, calls_->section_end,
          calls_->after_name, calls_->id_mark})
      if (!mark.empty()) all.push_back(mark);
  return all;
}

bool ChatSyntax::needs_special(const Tokenizer& tokenizer) const {
  for (const std::string_view mark : marks())
    if (const std::optional<TokenId> id = tokenizer.id(mark); id && tokenizer.is_special(*id)) return true;
  return false;
}

}  // namespace coterie::text
