#include "serve/api/reply.h"

#include <fmt/format.h>

#include "serve/api/answer.h"
#include "serve/api/api_error.h"

namespace coterie::serve {

namespace {

using Mode = text::ToolChoice::Mode;

text::ToolChoice read_choice(Fields& fields, bool tools) {
  const base::Json* const given = fields.value("tool_choice");
  if (!given) return {tools ? Mode::automatic : Mode::none, ""};
  if (*given == "none") return {Mode::none, ""};
  if (*given == "auto") return {tools ? Mode::automatic : Mode::none, ""};
  if (!tools) throw ApiError(400, "tool_choice: there are no tools to choose from", "tool_choice");
  if (*given == "required") return {Mode::required, ""};
  if (given->is_object() && given->value("type", "") == "function" && given->contains("function") &&
      (*given)["function"].is_object() && (*given)["function"].contains("name") &&
      (*given)["function"]["name"].is_string())
    return {Mode::named, (*given)["function"]["name"].get<std::string>()};
  throw ApiError(400,
                 "tool_choice: expected none, auto, required or {\"type\": \"function\", \"function\": {\"name\": …}}",
                 "tool_choice");
}

}  // namespace

void ReplyDelta::add(ReplyDelta more) {
  content += more.content;
  reasoning += more.reasoning;
  for (Call& call : more.calls) calls.push_back(std::move(call));
}

ReplyForm read_reply_form(Fields& fields, const OrderedJson& body, ChatInput& input, const ServedModel& model) {
  ReplyForm form;
  if (model.chat_template) form.syntax = text::ChatSyntax::of(*model.chat_template);
  form.answer.response = read_response_format(fields, body);
  const base::Json* const tools = fields.array("tools");
  const bool some = tools && !tools->empty();
  form.answer.tool_choice = read_choice(fields, some);
  form.answer.parallel_calls = fields.boolean("parallel_tool_calls").value_or(true);
  if (some) input.extra["tools"] = body["tools"];
  if (some && form.answer.tool_choice.mode != Mode::none) form.answer.tools = body["tools"].dump();
  for (const char* name : {"functions", "function_call"})
    fields.refuse(name, "is the old form; write tools and tool_choice");
  if (const auto wanted = fields.one_of("reasoning_format", {"auto", "none", "deepseek"}))
    form.split_reasoning = *wanted != "none";
  return form;
}

void constrain(ReplyForm& form, std::string prompt, const ServedModel& model) {
  form.answer.prompt = std::move(prompt);
  form.constraint = text::answer_constraint(model.tokenizer, form.syntax, form.answer);
}

Reply::Reply(const ReplyForm& form)
    : parser_(form.syntax, {.prompt = form.answer.prompt,
                            .tools = form.answer.tools,
                            .reasoning = form.split_reasoning,
                            .make_id = [](int64_t) { return fresh_id("call_"); }}),
      in_reasoning_(form.split_reasoning && form.syntax.prompt_opens_reasoning(form.answer.prompt)) {}

namespace {

ReplyDelta delta_of(std::vector<text::ChatEvent> events) {
  using Kind = text::ChatEvent::Kind;
  ReplyDelta delta;
  for (text::ChatEvent& event : events) {
    const auto index = static_cast<size_t>(std::max<int64_t>(event.call, 0));
    switch (event.kind) {
      case Kind::content: delta.content += event.text; break;
      case Kind::reasoning: delta.reasoning += event.text; break;
      case Kind::call_begin: delta.calls.push_back({index, std::move(event.id), std::move(event.name), ""}); break;
      case Kind::call_arguments:
        if (!delta.calls.empty() && delta.calls.back().index == index)
          delta.calls.back().arguments += event.text;
        else
          delta.calls.push_back({index, "", "", std::move(event.text)});
        break;
      case Kind::call_end: break;
    }
  }
  return delta;
}

}  // namespace

ReplyDelta Reply::push(std::string_view text, bool token) {
  ReplyDelta delta = text.empty() ? ReplyDelta() : delta_of(parser_.push(text));
  undecided_ += token ? 1 : 0;
  if (delta.empty()) return delta;
  // What was held back, a mark or the beginning of a character, belongs to what came of it; what ends the reasoning
  // belongs to it too.
  const bool ends = in_reasoning_ && delta.reasoning.empty();
  in_reasoning_ = !delta.reasoning.empty() && delta.content.empty() && delta.calls.empty();
  if (!delta.reasoning.empty()) reasoning_tokens_ += undecided_;
  if (ends) reasoning_tokens_ += undecided_ - (token ? 1 : 0);
  undecided_ = 0;
  return delta;
}

ReplyDelta Reply::finish() {
  ReplyDelta delta = delta_of(parser_.finish());
  if (!delta.reasoning.empty() || (in_reasoning_ && delta.empty())) reasoning_tokens_ += undecided_;
  undecided_ = 0;
  return delta;
}

}  // namespace coterie::serve
