#include <fmt/format.h>

#include "serve/api/answer.h"
#include "serve/api/conversation.h"
#include "serve/api/endpoints.h"
#include "serve/api/sampling_fields.h"

namespace coterie::serve {

namespace {

std::string block_text(const OrderedJson& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) throw ApiError(400, where + ": expected a text or an array of blocks", where);
  std::string text;
  for (const OrderedJson& block : content) {
    if (!block.is_object() || block.value("type", "") != "text" || !block.contains("text") ||
        !block["text"].is_string())
      throw ApiError(400, where + ": blocks of type text alone are read here", where);
    text += block["text"].get<std::string>();
  }
  return text;
}

/// One of Anthropic's messages as one or several of the chat API's.
void add_message(const OrderedJson& message, size_t index, OrderedJson& messages) {
  const std::string where = fmt::format("messages[{}]", index);
  if (!message.is_object() || !message.contains("role") || !message["role"].is_string() || !message.contains("content"))
    throw ApiError(400, where + ": expected an object with role and content", where);
  const std::string role = message["role"].get<std::string>();
  if (role != "user" && role != "assistant" && role != "system")
    throw ApiError(400, fmt::format("{}.role: expected user or assistant, found \"{}\"", where, role), where);
  const OrderedJson& content = message["content"];
  if (content.is_string()) return messages.push_back({{"role", role}, {"content", content}}), void();
  if (!content.is_array()) throw ApiError(400, where + ".content: expected a text or an array of blocks", where);
  std::string text, thinking;
  OrderedJson calls = OrderedJson::array();
  bool said = false;
  for (const OrderedJson& block : content) {
    const std::string type = block.is_object() ? block.value("type", "") : "";
    if (type == "text") {
      text += block.value("text", ""), said = true;
    } else if (type == "thinking") {
      thinking += block.value("thinking", "");
    } else if (type == "redacted_thinking") {
      continue;
    } else if (type == "tool_use") {
      const OrderedJson input = block.contains("input") ? block["input"] : OrderedJson::object();
      calls.push_back({{"id", block.value("id", "")},
                       {"type", "function"},
                       {"function", {{"name", block.value("name", "")}, {"arguments", input.dump()}}}});
    } else if (type == "tool_result") {
      const OrderedJson result =
          block.contains("content") && !block["content"].is_null() ? block["content"] : OrderedJson("");
      messages.push_back({{"role", "tool"},
                          {"tool_call_id", block.value("tool_use_id", "")},
                          {"content", block_text(result, where + ".content")}});
    } else {
      throw ApiError(400, fmt::format("{}.content: blocks of type \"{}\" are not read here", where, type), where);
    }
  }
  if (!said && calls.empty() && thinking.empty()) return;
  OrderedJson one = {{"role", role}, {"content", said ? OrderedJson(text) : OrderedJson("")}};
  if (!thinking.empty()) one["reasoning_content"] = thinking;
  if (!calls.empty()) one["tool_calls"] = std::move(calls);
  messages.push_back(std::move(one));
}

OrderedJson chat_of(Fields& fields, const OrderedJson& body) {
  if (!fields.array("messages")) fields.wrong("messages", "an array of messages");
  OrderedJson messages = OrderedJson::array();
  if (fields.value("system"))
    messages.push_back({{"role", "system"}, {"content", block_text(body["system"], "system")}});
  for (size_t i = 0; i < body["messages"].size(); ++i) add_message(body["messages"][i], i, messages);
  OrderedJson chat = {{"messages", messages}};
  // An assistant's message at the end is gone on with.
  const bool prefilled =
      !messages.empty() && messages.back()["role"] == "assistant" && !messages.back().contains("tool_calls");
  if (prefilled) chat["continue_final_message"] = true;
  if (fields.array("tools")) {
    OrderedJson tools = OrderedJson::array();
    for (const OrderedJson& tool : body["tools"]) {
      if (!tool.is_object() || !tool.contains("name") || !tool.contains("input_schema"))
        throw ApiError(400, "tools: expected objects with name and input_schema; this server has no tools of its own",
                       "tools");
      OrderedJson function = {{"name", tool["name"]}};
      if (tool.contains("description")) function["description"] = tool["description"];
      function["parameters"] = tool["input_schema"];
      tools.push_back({{"type", "function"}, {"function", std::move(function)}});
    }
    chat["tools"] = std::move(tools);
  }
  if (const base::Json* choice = fields.object("tool_choice")) {
    const std::string type = choice->value("type", "");
    if (type == "tool")
      chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", choice->value("name", "")}}}};
    else if (type == "any")
      chat["tool_choice"] = "required";
    else if (type == "auto" || type == "none")
      chat["tool_choice"] = type;
    else
      throw ApiError(400, "tool_choice.type: expected auto, any, tool or none", "tool_choice");
    if (choice->value("disable_parallel_tool_use", false)) chat["parallel_tool_calls"] = false;
  }
  if (const base::Json* thinking = fields.object("thinking"))
    chat["chat_template_kwargs"] = {{"enable_thinking", thinking->value("type", "") != "disabled"}};
  if (const base::Json* output = fields.object("output_config"); output && output->contains("format"))
    chat["response_format"] = {
        {"type", "json_schema"},
        {"json_schema",
         {{"name", "output"}, {"schema", body["output_config"]["format"].value("schema", OrderedJson())}}}};
  return chat;
}

void accept_here(Fields& fields) {
  accept_inert(fields);
  fields.accept({"cache_control", "inference_geo", "anthropic_version", "betas"});
  fields.refuse("mcp_servers", "no tools run in this server", base::Json::array());
  fields.refuse("container", "no code runs in this server");
  fields.refuse("context_management", "a prompt is answered as it is");
}

/// /v1/messages
class MessagesAnswer final : public Answer {
 public:
  MessagesAnswer(const base::Json& body, const std::string& text, const ServedModel& served) : Answer(served) {
    id = fresh_id("msg_");
    const OrderedJson ordered = OrderedJson::parse(text);
    Fields fields(body);
    stream = fields.boolean("stream").value_or(false);
    const Conversation conversation = read_conversation(chat_of(fields, ordered), model);
    Request request = default_request(model);
    const auto most = fields.integer("max_tokens", 1, INT32_MAX);
    if (!most) fields.wrong("max_tokens", "a whole number of at least 1");
    request.max_tokens = *most;
    read_sampling(fields, model, request);
    if (fields.has("stop_sequences")) request.stop = fields.strings("stop_sequences");
    std::erase(request.stop, "");
    fields.accept({"stop_sequences"});
    accept_here(fields);
    warnings = fields.refuse_unknown(model.lenient);
    apply(conversation, model, request);
    requests.push_back(std::move(request));
    reply_ = std::make_unique<Reply>(conversation.form);
  }

  std::string begin() override {
    base::Json message = shell();
    message["usage"] = {{"input_tokens", requests[0].prompt.size()},
                        {"output_tokens", 0},
                        {"cache_read_input_tokens", 0},
                        {"cache_creation_input_tokens", 0}};
    return event("message_start", {{"message", std::move(message)}});
  }

  std::string token(size_t choice, const TokenChosen& token) override {
    keep(choice, token, false);
    return add(reply_->push(token.text));
  }

  std::string ended(size_t choice) override {
    std::string bytes = add(reply_->push(choices[choice].finished->text, false));
    bytes += add(reply_->finish());
    if (blocks_.empty()) open("text", bytes);
    return bytes + close();
  }

  std::string end() override {
    base::Json delta = {{"stop_reason", stop_reason()}, {"stop_sequence", stop_sequence()}};
    return event("message_delta", {{"delta", std::move(delta)}, {"usage", usage_here()}}) +
           event("message_stop", base::Json::object());
  }

  std::string failed(const ApiError& error) const override {
    return server_event(error_body(error, Dialect::anthropic), "error");
  }

  base::Json whole() override {
    base::Json message = shell();
    for (const Block& block : blocks_) message["content"].push_back(block_json(block, true));
    message["stop_reason"] = stop_reason();
    message["stop_sequence"] = stop_sequence();
    message["usage"] = usage_here();
    return message;
  }

 private:
  struct Block {
    std::string type, text, id, name;
    bool open = true;
  };

  std::string event(const std::string& type, base::Json json) const {
    if (!stream) return {};
    json["type"] = type;
    return server_event(json, type);
  }

  base::Json shell() const {
    return {{"id", id},
            {"type", "message"},
            {"role", "assistant"},
            {"model", model.name},
            {"content", base::Json::array()},
            {"stop_reason", nullptr},
            {"stop_sequence", nullptr}};
  }

  static base::Json block_json(const Block& block, bool whole) {
    const std::string text = whole ? block.text : "";
    if (block.type == "text") return {{"type", "text"}, {"text", text}};
    if (block.type == "thinking") return {{"type", "thinking"}, {"thinking", text}, {"signature", ""}};
    const base::Json input = whole ? base::Json::parse(block.text, nullptr, false) : base::Json::object();
    return {{"type", "tool_use"},
            {"id", block.id},
            {"name", block.name},
            {"input", input.is_object() ? input : base::Json::object()}};
  }

  void open(const std::string& type, std::string& bytes, const ReplyDelta::Call* call = nullptr) {
    bytes += close();
    Block block;
    block.type = type;
    if (call) block.id = call->id, block.name = call->name;
    blocks_.push_back(block);
    bytes += event("content_block_start", {{"index", blocks_.size() - 1}, {"content_block", block_json(block, false)}});
  }

  std::string close() {
    if (blocks_.empty() || !blocks_.back().open) return {};
    blocks_.back().open = false;
    return event("content_block_stop", {{"index", blocks_.size() - 1}});
  }

  void add_to(const char* type, const char* delta, const char* key, const std::string& piece, std::string& bytes) {
    if (piece.empty()) return;
    if (blocks_.empty() || blocks_.back().type != type || !blocks_.back().open) open(type, bytes);
    blocks_.back().text += piece;
    bytes += event("content_block_delta", {{"index", blocks_.size() - 1}, {"delta", {{"type", delta}, {key, piece}}}});
  }

  std::string add(const ReplyDelta& delta) {
    std::string bytes;
    add_to("thinking", "thinking_delta", "thinking", delta.reasoning, bytes);
    add_to("text", "text_delta", "text", delta.content, bytes);
    for (const ReplyDelta::Call& call : delta.calls) {
      if (!call.name.empty()) open("tool_use", bytes, &call);
      add_to("tool_use", "input_json_delta", "partial_json", call.arguments, bytes);
    }
    return bytes;
  }

  std::string stop_reason() const {
    const Finished& finished = *choices[0].finished;
    if (finish_reason(finished) == "length") return "max_tokens";
    for (const Block& block : blocks_)
      if (block.type == "tool_use") return "tool_use";
    return finished.stop_index >= 0 ? "stop_sequence" : "end_turn";
  }

  base::Json stop_sequence() const {
    const int64_t index = choices[0].finished->stop_index;
    return index >= 0 ? base::Json(requests[0].stop[static_cast<size_t>(index)]) : base::Json();
  }

  base::Json usage_here() const {
    const Usage used = usage();
    return {{"input_tokens", used.prompt_tokens - used.cached_tokens},
            {"output_tokens", used.completion_tokens},
            {"cache_read_input_tokens", used.cached_tokens},
            {"cache_creation_input_tokens", 0}};
  }

  std::unique_ptr<Reply> reply_;
  std::vector<Block> blocks_;
};

}  // namespace

std::unique_ptr<Answer> messages_answer(const base::Json& body, const std::string& text, const ServedModel& model) {
  return std::make_unique<MessagesAnswer>(body, text, model);
}

base::Json count_tokens_json(const base::Json& body, const std::string& text, const ServedModel& model) {
  const OrderedJson ordered = OrderedJson::parse(text);
  Fields fields(body);
  const Conversation conversation = read_conversation(chat_of(fields, ordered), model);
  accept_here(fields);
  fields.accept({"max_tokens", "stream", "temperature", "top_p", "top_k", "stop_sequences"});
  fields.refuse_unknown(model.lenient);
  return {{"input_tokens", conversation.ids.size()}};
}

}  // namespace coterie::serve
