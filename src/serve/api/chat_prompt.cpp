#include "serve/api/chat_prompt.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "serve/api/api_error.h"

namespace coterie::serve {

namespace {

[[noreturn]] void bad_message(size_t index, const std::string& what) {
  const std::string param = fmt::format("messages[{}]", index);
  throw ApiError(400, fmt::format("{}{}", param, what), param);
}

std::string part_text(const OrderedJson& part, size_t index) {
  if (part.is_string()) return part.get<std::string>();
  const std::string type = part.is_object() ? part.value("type", OrderedJson("")).dump() : "";
  if (part.is_object())
    for (const char* key : {"text", "refusal"})
      if (part.contains(key) && part[key].is_string() &&
          (type == "\"text\"" || type == "\"input_text\"" || type == "\"output_text\"" || type == "\"refusal\""))
        return part[key].get<std::string>();
  bad_message(index, fmt::format(".content: parts of type text alone are read here, found {}",
                                 type.empty() || type == "\"\"" ? "a part without a type" : type));
}

OrderedJson content_of(const OrderedJson& message, size_t index) {
  const auto found = message.find("content");
  if (found == message.end() || found->is_null()) return nullptr;
  if (found->is_string()) return *found;
  if (!found->is_array()) bad_message(index, ".content: expected a string or an array of parts");
  std::string text;
  for (const OrderedJson& part : *found) text += part_text(part, index);
  return text;
}

OrderedJson calls_of(const OrderedJson& calls, size_t index) {
  if (!calls.is_array()) bad_message(index, ".tool_calls: expected an array");
  OrderedJson all = OrderedJson::array();
  for (const OrderedJson& call : calls) {
    const bool good = call.is_object() && call.contains("function") && call["function"].is_object() &&
                      call["function"].contains("name") && call["function"]["name"].is_string();
    if (!good)
      bad_message(index,
                  ".tool_calls: expected objects such as {\"id\": …, \"type\": \"function\", \"function\": {\"name\": "
                  "…, \"arguments\": …}}");
    OrderedJson copy = call;
    OrderedJson& function = copy["function"];
    if (function.contains("arguments") && function["arguments"].is_string()) {
      // Templates print arguments as an object; a text that is none is left as it is.
      OrderedJson arguments = OrderedJson::parse(function["arguments"].get<std::string>(), nullptr, false);
      if (arguments.is_object())
        function["arguments"] = std::move(arguments);
      else if (function["arguments"] == "")
        function["arguments"] = OrderedJson::object();
    }
    if (!copy.contains("type")) copy["type"] = "function";
    all.push_back(std::move(copy));
  }
  return all;
}

bool knows(const ServedModel& model, std::string_view word) {
  return model.chat_template && model.chat_template->source().find(word) != std::string::npos;
}

}  // namespace

OrderedJson chat_messages(const OrderedJson& messages, const ServedModel& model) {
  if (!messages.is_array() || messages.empty())
    throw ApiError(400, "messages: expected an array of at least one message", "messages");
  OrderedJson all = OrderedJson::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const OrderedJson& message = messages[i];
    if (!message.is_object()) bad_message(i, ": expected an object with role and content");
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string()) bad_message(i, ".role: expected a string, such as user");
    std::string name = role->get<std::string>();
    static const std::vector<std::string> known = {"system", "developer", "user", "assistant", "tool", "function"};
    if (std::find(known.begin(), known.end(), name) == known.end() && !knows(model, "'" + name + "'") &&
        !knows(model, "\"" + name + "\""))
      bad_message(i, fmt::format(".role: expected one of {}, found \"{}\"", fmt::join(known, ", "), name));
    if (name == "developer" && !knows(model, "developer")) name = "system";
    OrderedJson copy = OrderedJson::object();
    copy["role"] = name;
    OrderedJson content = content_of(message, i);
    const bool calls = message.contains("tool_calls") && !message["tool_calls"].is_null();
    if (content.is_null() &&
        !(name == "assistant" && (calls || message.contains("reasoning_content") || message.contains("reasoning"))))
      bad_message(i, ".content: expected a string or an array of parts, found nothing");
    copy["content"] = content.is_null() ? OrderedJson("") : std::move(content);
    if (calls) copy["tool_calls"] = calls_of(message["tool_calls"], i);
    for (const char* key : {"name", "tool_call_id", "reasoning_content", "reasoning", "thinking"}) {
      if (!message.contains(key) || message[key].is_null()) continue;
      if (!message[key].is_string()) bad_message(i, fmt::format(".{}: expected a string", key));
      copy[key] = message[key];
    }
    static const std::vector<std::string> read = {"role",          "content",           "tool_calls",
                                                  "name",          "tool_call_id",      "reasoning_content",
                                                  "reasoning",     "thinking",          "refusal",
                                                  "audio",         "annotations",       "function_call",
                                                  "cache_control", "reasoning_details", "provider_specific_fields"};
    for (const auto& item : message.items())
      if (std::find(read.begin(), read.end(), item.key()) == read.end() && !model.lenient)
        bad_message(i, fmt::format(".{}: this field is not known here", item.key()));
    if (message.contains("function_call") && !message["function_call"].is_null())
      bad_message(i, ".function_call: is the old form; write tool_calls");
    all.push_back(std::move(copy));
  }
  return all;
}

void read_template_fields(Fields& fields, const OrderedJson& body, ChatInput& input, const ServedModel& model) {
  if (const OrderedJson variables = OrderedJson::parse(model.template_variables); !variables.empty())
    for (const auto& item : variables.items()) input.extra[item.key()] = item.value();
  if (const base::Json* given = fields.object("chat_template_kwargs"))
    for (const auto& item : given->items()) input.extra[item.key()] = body["chat_template_kwargs"][item.key()];
  if (const auto effort = fields.string("reasoning_effort")) input.extra["reasoning_effort"] = *effort;
  if (fields.array("documents")) input.extra["documents"] = body["documents"];
  if (const auto add = fields.boolean("add_generation_prompt")) input.add_generation_prompt = *add;
  if (const auto go_on = fields.boolean("continue_final_message"); go_on && *go_on) {
    if (fields.has("add_generation_prompt") && input.add_generation_prompt)
      throw ApiError(400, "continue_final_message and add_generation_prompt cannot both be true",
                     "continue_final_message");
    input.continue_final = true;
    input.add_generation_prompt = false;
  }
}

std::string render_chat(const ChatInput& input, const ServedModel& model) {
  if (!model.chat_template)
    throw ApiError(400,
                   "this model has no chat template, so nothing says how messages become its prompt: /v1/completions "
                   "continues plain text, and `serve.chat_template` FILE gives the server a template",
                   "messages", "no_chat_template");
  try {
    std::string text = model.chat_template->render_json(
        input.messages.dump(), input.add_generation_prompt && !input.continue_final, input.extra.dump());
    if (!input.continue_final) return text;
    const OrderedJson& last = input.messages.back();
    const std::string content = last["content"].get<std::string>();
    const size_t trimmed_end = content.find_last_not_of(" \n\t") + 1;
    // Templates may trim what they print.
    size_t at = content.empty() ? std::string::npos : text.rfind(content);
    if (at != std::string::npos) return text.substr(0, at + content.size());
    at = trimmed_end == 0 ? std::string::npos : text.rfind(content.substr(0, trimmed_end));
    if (at == std::string::npos)
      throw ApiError(400, "the last message cannot be gone on with: the template does not print it as it is",
                     "messages");
    return text.substr(0, at + trimmed_end);
  } catch (const base::Error& error) {
    throw ApiError(400, fmt::format("the chat template refuses these messages: {}", error.message()), "messages",
                   "template_error");
  }
}

std::vector<int64_t> ends_of_turns(const ChatInput& input, const std::string& text, std::span<const text::TokenId> ids,
                                   const ServedModel& model) {
  if (!model.keeps_states || !model.chat_template) return {};
  constexpr size_t kLast = 4;          // a copy of states is as large as many pages
  constexpr int64_t kLeastApart = 64;  // and each end cuts the reading of a prompt
  std::vector<int64_t> ends;
  const auto& marks = model.tokenizer.end_tokens();
  for (size_t at = 0; at < ids.size(); ++at)
    if (std::find(marks.begin(), marks.end(), ids[at]) != marks.end()) ends.push_back(static_cast<int64_t>(at) + 1);
  if (ends.size() > kLast) ends.erase(ends.begin(), ends.end() - static_cast<int64_t>(kLast));
  // The system prompt ends with no such token in some templates: it is what two conversations have in common.
  const OrderedJson& first = input.messages.front();
  if (first["role"] == "system" && input.messages.size() > 1) {
    try {
      OrderedJson other = {first, input.messages[1]};
      other[1]["content"] = input.messages[1].value("content", OrderedJson("")) == "0" ? "1" : "0";
      const std::string shared = model.chat_template->render_json(other.dump(), false, input.extra.dump());
      const size_t same = static_cast<size_t>(
          std::mismatch(text.begin(), text.end(), shared.begin(), shared.end()).first - text.begin());
      const std::vector<text::TokenId> beginning = model.tokenizer.encode(text.substr(0, same), false);
      const auto end = std::mismatch(ids.begin(), ids.end(), beginning.begin(), beginning.end()).first - ids.begin();
      ends.push_back(end);
    } catch (const base::Error&) {
      // A template that refuses such messages: the other ends are enough.
    }
  }
  std::sort(ends.begin(), ends.end());
  std::vector<int64_t> apart;
  for (const int64_t end : ends)
    if (end > 0 && (apart.empty() || end - apart.back() >= kLeastApart)) apart.push_back(end);
  return apart;
}

void require_room(size_t tokens, const ServedModel& model) {
  if (static_cast<int64_t>(tokens) < model.context) return;
  ApiError error(400,
                 fmt::format("the prompt has {} tokens, and the context of {} leaves no room for an answer", tokens,
                             model.context),
                 "", "context_length_exceeded");
  error.type = "exceed_context_size_error";
  error.extra["n_prompt_tokens"] = tokens;
  error.extra["n_ctx"] = model.context;
  throw error;
}

std::vector<text::TokenId> prompt_ids(const std::string& text, bool add_special, const ServedModel& model) {
  std::vector<text::TokenId> ids = model.tokenizer.encode(text, add_special);
  require_room(ids.size(), model);
  return ids;
}

}  // namespace coterie::serve
