#include <fmt/format.h>

#include "serve/api/answer.h"
#include "serve/api/conversation.h"
#include "serve/api/endpoints.h"
#include "serve/api/sampling_fields.h"

namespace coterie::serve {

namespace {

/// Items of "input" as messages of the chat API.
OrderedJson messages_of(const OrderedJson& body) {
  OrderedJson messages = OrderedJson::array();
  if (body.contains("instructions") && body["instructions"].is_string())
    messages.push_back({{"role", "system"}, {"content", body["instructions"]}});
  const OrderedJson& input = body["input"];
  if (input.is_string()) {
    messages.push_back({{"role", "user"}, {"content", input}});
    return messages;
  }
  if (!input.is_array() || input.empty()) throw ApiError(400, "input: expected a text or an array of items", "input");
  OrderedJson thought;  // reasoning belongs to the message after it
  for (size_t i = 0; i < input.size(); ++i) {
    const OrderedJson& item = input[i];
    const std::string where = fmt::format("input[{}]", i);
    if (!item.is_object()) throw ApiError(400, where + ": expected an object", where);
    const std::string type =
        item.contains("type") && item["type"].is_string() ? item["type"].get<std::string>() : "message";
    const auto text_of = [&](const char* key) {
      if (!item.contains(key) || !item[key].is_string())
        throw ApiError(400, fmt::format("{}.{}: expected a string", where, key), where);
      return item[key].get<std::string>();
    };
    if (type == "message") {
      OrderedJson message = {{"role", text_of("role")},
                             {"content", item.contains("content") ? item["content"] : OrderedJson()}};
      if (!thought.is_null()) message["reasoning_content"] = std::exchange(thought, nullptr);
      messages.push_back(std::move(message));
    } else if (type == "reasoning") {
      std::string text;
      for (const char* key : {"content", "summary"})
        if (text.empty() && item.contains(key) && item[key].is_array())
          for (const OrderedJson& part : item[key]) text += part.is_object() ? part.value("text", "") : "";
      thought = text;
    } else if (type == "function_call") {
      const OrderedJson call = {{"id", text_of("call_id")},
                                {"type", "function"},
                                {"function", {{"name", text_of("name")}, {"arguments", text_of("arguments")}}}};
      const bool joins =
          !messages.empty() && messages.back()["role"] == "assistant" && messages.back().contains("tool_calls");
      if (!joins)
        messages.push_back({{"role", "assistant"}, {"content", nullptr}, {"tool_calls", OrderedJson::array()}});
      if (!thought.is_null()) messages.back()["reasoning_content"] = std::exchange(thought, nullptr);
      messages.back()["tool_calls"].push_back(call);
    } else if (type == "function_call_output") {
      messages.push_back({{"role", "tool"},
                          {"tool_call_id", text_of("call_id")},
                          {"content", item.contains("output") ? item["output"] : OrderedJson("")}});
    } else {
      throw ApiError(
          400,
          fmt::format(
              "{}.type: \"{}\" is not read here: message, reasoning, function_call and function_call_output are", where,
              type),
          where);
    }
  }
  return messages;
}

OrderedJson chat_of(Fields& fields, const OrderedJson& body) {
  OrderedJson chat = {{"messages", messages_of(body)}};
  fields.accept({"input", "instructions"});
  if (fields.array("tools")) {
    OrderedJson tools = OrderedJson::array();
    for (const OrderedJson& tool : body["tools"]) {
      if (!tool.is_object() || tool.value("type", "") != "function")
        throw ApiError(400, "tools: functions alone can be called here", "tools", "unsupported_parameter");
      OrderedJson function = tool;
      function.erase("type");
      tools.push_back({{"type", "function"}, {"function", std::move(function)}});
    }
    chat["tools"] = std::move(tools);
  }
  if (const base::Json* choice = fields.value("tool_choice")) {
    chat["tool_choice"] = body["tool_choice"];
    if (choice->is_object() && choice->contains("name"))
      chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", (*choice)["name"].get<std::string>()}}}};
  }
  if (fields.boolean("parallel_tool_calls")) chat["parallel_tool_calls"] = body["parallel_tool_calls"];
  if (const base::Json* text = fields.object("text")) {
    Fields inner(*text, "text.");
    inner.accept({"verbosity"});
    if (const base::Json* format = inner.object("format")) {
      const OrderedJson& given = body["text"]["format"];
      if (format->value("type", "") == "json_schema") {
        OrderedJson schema = given;
        schema.erase("type");
        chat["response_format"] = {{"type", "json_schema"}, {"json_schema", std::move(schema)}};
      } else {
        chat["response_format"] = given;
      }
    }
    inner.refuse_unknown(false);
  }
  if (const base::Json* reasoning = fields.object("reasoning")) {
    Fields inner(*reasoning, "reasoning.");
    if (const auto effort = inner.string("effort")) chat["reasoning_effort"] = *effort;
    inner.accept({"summary", "generate_summary"});
    inner.refuse_unknown(false);
  }
  if (fields.object("chat_template_kwargs")) chat["chat_template_kwargs"] = body["chat_template_kwargs"];
  return chat;
}

/// /v1/responses, which keeps nothing: each request carries its whole conversation.
class ResponsesAnswer final : public Answer {
 public:
  ResponsesAnswer(const base::Json& body, const std::string& text, const ServedModel& served) : Answer(served) {
    id = fresh_id("resp_");
    const OrderedJson ordered = OrderedJson::parse(text);
    Fields fields(body);
    if (!fields.value("input")) fields.wrong("input", "a text or an array of items");
    stream = fields.boolean("stream").value_or(false);
    fields.refuse("previous_response_id", "nothing is kept here: send the whole conversation as input");
    fields.refuse("conversation", "nothing is kept here: send the whole conversation as input");
    fields.refuse("prompt", "no prompts are kept here");
    fields.refuse("background", "answers come at once or as a stream", false);
    fields.refuse("truncation", "a prompt that does not fit is refused, not shortened", "disabled");
    fields.refuse("max_tool_calls", "this server does not count it");
    fields.accept({"include", "stream_options", "top_logprobs"});
    const Conversation conversation = read_conversation(chat_of(fields, ordered), model);
    Request request = default_request(model);
    if (const auto most = fields.integer("max_output_tokens", 1, INT32_MAX)) request.max_tokens = *most, most_ = *most;
    read_sampling(fields, model, request);
    if (const base::Json* include = fields.array("include"))
      for (const base::Json& each : *include) logprobs_ |= each == "message.output_text.logprobs";
    if (logprobs_) request.logprobs = fields.integer("top_logprobs", 0, 20).value_or(0);
    accept_inert(fields);
    warnings = fields.refuse_unknown(model.lenient);
    apply(conversation, model, request);
    requests.push_back(std::move(request));
    reply_ = std::make_unique<Reply>(conversation.form);
    for (const char* key :
         {"instructions", "tools", "tool_choice", "metadata", "text", "reasoning", "parallel_tool_calls", "user"})
      if (body.contains(key)) echoed_[key] = body[key];
  }

  std::string begin() override {
    std::string bytes = event("response.created", {{"response", response("in_progress")}});
    bytes += event("response.in_progress", {{"response", response("in_progress")}});
    return bytes;
  }

  std::string token(size_t choice, const TokenChosen& token) override {
    keep(choice, token, false);
    if (logprobs_ && !model.ends(token.id)) logprobs_list_.push_back(logprob_json(token, model));
    return add(reply_->push(token.text));
  }

  std::string ended(size_t choice) override {
    std::string bytes = add(reply_->push(choices[choice].finished->text, false));
    bytes += add(reply_->finish());
    if (items_.empty()) open_item("message", bytes);
    bytes += close_item();
    return bytes;
  }

  std::string end() override {
    const std::string status = full() ? "incomplete" : "completed";
    return event("response." + status, {{"response", response(status)}});
  }

  std::string failed(const ApiError& error) const override {
    base::Json json = response("failed");
    json["error"] = {{"code", "server_error"}, {"message", error.message}};
    return server_event({{"type", "response.failed"}, {"response", std::move(json)}, {"sequence_number", sequence_}},
                        "response.failed");
  }

  base::Json whole() override { return response(full() ? "incomplete" : "completed"); }

 private:
  struct Item {
    std::string type, id, text, call_id, name;
    bool open = true;
  };

  bool full() const { return choices[0].finished && finish_reason(*choices[0].finished) == "length"; }

  std::string event(const std::string& type, base::Json json) {
    json["type"] = type;
    json["sequence_number"] = sequence_++;
    return stream ? server_event(json, type) : std::string();
  }

  base::Json part_json(const Item& item) const {
    if (item.type == "reasoning") return {{"type", "reasoning_text"}, {"text", item.text}};
    return {{"type", "output_text"},
            {"text", item.text},
            {"annotations", base::Json::array()},
            {"logprobs", logprobs_list_}};
  }

  base::Json item_json(const Item& item) const {
    const std::string status = item.open ? "in_progress" : "completed";
    if (item.type == "function_call")
      return {{"type", item.type}, {"id", item.id},          {"call_id", item.call_id},
              {"name", item.name}, {"arguments", item.text}, {"status", status}};
    base::Json json = {{"type", item.type}, {"id", item.id}, {"status", status}, {"content", base::Json::array()}};
    if (item.type == "reasoning") json["summary"] = base::Json::array();
    if (item.type == "message") json["role"] = "assistant";
    if (!item.open) json["content"].push_back(part_json(item));
    return json;
  }

  void open_item(const std::string& type, std::string& bytes) {
    bytes += close_item();
    Item item;
    item.type = type;
    item.id = fresh_id(type == "message" ? "msg_" : type == "reasoning" ? "rs_" : "fc_");
    items_.push_back(item);
    const size_t index = items_.size() - 1;
    bytes += event("response.output_item.added", {{"output_index", index}, {"item", item_json(items_.back())}});
    if (type != "function_call")
      bytes += event("response.content_part.added",
                     {{"item_id", item.id}, {"output_index", index}, {"content_index", 0}, {"part", part_json(item)}});
  }

  std::string close_item() {
    if (items_.empty() || !items_.back().open) return {};
    Item& item = items_.back();
    item.open = false;
    const base::Json at = {{"item_id", item.id}, {"output_index", items_.size() - 1}};
    const auto with = [&](base::Json more) {
      more.update(at);
      return more;
    };
    std::string bytes;
    if (item.type == "function_call") {
      bytes = event("response.function_call_arguments.done", with({{"arguments", item.text}, {"name", item.name}}));
    } else {
      const std::string kind = item.type == "message" ? "output_text" : "reasoning_text";
      base::Json done = with({{"content_index", 0}, {"text", item.text}});
      if (item.type == "message") done["logprobs"] = logprobs_list_;
      bytes = event("response." + kind + ".done", done);
      bytes += event("response.content_part.done", with({{"content_index", 0}, {"part", part_json(item)}}));
    }
    bytes += event("response.output_item.done", {{"output_index", items_.size() - 1}, {"item", item_json(item)}});
    return bytes;
  }

  std::string add(const ReplyDelta& delta) {
    std::string bytes;
    const auto text = [&](const char* type, const char* kind, const std::string& piece) {
      if (piece.empty()) return;
      if (items_.empty() || items_.back().type != type || !items_.back().open) open_item(type, bytes);
      items_.back().text += piece;
      base::Json json = {
          {"item_id", items_.back().id}, {"output_index", items_.size() - 1}, {"content_index", 0}, {"delta", piece}};
      if (std::string_view(type) == "message") json["logprobs"] = base::Json::array();
      bytes += event(fmt::format("response.{}.delta", kind), std::move(json));
    };
    text("reasoning", "reasoning_text", delta.reasoning);
    text("message", "output_text", delta.content);
    for (const ReplyDelta::Call& call : delta.calls) {
      if (!call.name.empty()) {
        open_item("function_call", bytes);
        items_.back().call_id = call.id, items_.back().name = call.name;
      }
      if (call.arguments.empty()) continue;
      items_.back().text += call.arguments;
      bytes += event("response.function_call_arguments.delta",
                     {{"item_id", items_.back().id}, {"output_index", items_.size() - 1}, {"delta", call.arguments}});
    }
    return bytes;
  }

  base::Json response(const std::string& status) const {
    base::Json output = base::Json::array();
    if (status != "in_progress")
      for (const Item& item : items_) output.push_back(item_json(item));
    const auto echo = [&](const char* key, base::Json otherwise) {
      return echoed_.contains(key) && !echoed_[key].is_null() ? echoed_[key] : otherwise;
    };
    const runtime::SamplerOptions& sampler = requests[0].sampler;
    base::Json json = {{"id", id},
                       {"object", "response"},
                       {"created_at", created},
                       {"status", status},
                       {"background", false},
                       {"error", nullptr},
                       {"incomplete_details", full() ? base::Json{{"reason", "max_output_tokens"}} : base::Json()},
                       {"instructions", echo("instructions", nullptr)},
                       {"max_output_tokens", most_ ? base::Json(*most_) : base::Json()},
                       {"model", model.name},
                       {"output", std::move(output)},
                       {"parallel_tool_calls", echo("parallel_tool_calls", true)},
                       {"previous_response_id", nullptr},
                       {"reasoning", echo("reasoning", {{"effort", nullptr}, {"summary", nullptr}})},
                       {"store", false},
                       {"temperature", sampler.temperature},
                       {"text", echo("text", {{"format", {{"type", "text"}}}})},
                       {"tool_choice", echo("tool_choice", "auto")},
                       {"tools", echo("tools", base::Json::array())},
                       {"top_p", sampler.top_p},
                       {"truncation", "disabled"},
                       {"metadata", echo("metadata", base::Json::object())}};
    if (!choices.empty() && choices[0].finished) {
      const Usage used = usage();
      json["usage"] = {{"input_tokens", used.prompt_tokens},
                       {"input_tokens_details", {{"cached_tokens", used.cached_tokens}}},
                       {"output_tokens", used.completion_tokens},
                       {"output_tokens_details", {{"reasoning_tokens", reply_->reasoning_tokens()}}},
                       {"total_tokens", used.prompt_tokens + used.completion_tokens}};
    }
    return json;
  }

  std::unique_ptr<Reply> reply_;
  std::vector<Item> items_;
  std::optional<int64_t> most_;
  base::Json echoed_ = base::Json::object(), logprobs_list_ = base::Json::array();
  bool logprobs_ = false;
  int64_t sequence_ = 0;
};

}  // namespace

base::Json responses_tokens_json(const base::Json& body, const std::string& text, const ServedModel& model) {
  const OrderedJson ordered = OrderedJson::parse(text);
  Fields fields(body);
  if (!fields.value("input")) fields.wrong("input", "a text or an array of items");
  const Conversation conversation = read_conversation(chat_of(fields, ordered), model);
  return {{"object", "response.input_tokens"}, {"input_tokens", conversation.ids.size()}};
}

std::unique_ptr<Answer> responses_answer(const base::Json& body, const std::string& text, const ServedModel& model) {
  return std::make_unique<ResponsesAnswer>(body, text, model);
}

}  // namespace coterie::serve
