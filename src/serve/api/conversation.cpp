#include "serve/api/conversation.h"

#include "serve/api/api_error.h"
#include "serve/api/endpoints.h"

namespace coterie::serve {

Conversation read_conversation(const OrderedJson& chat, const ServedModel& model) {
  const base::Json plain = base::Json::parse(chat.dump());
  Fields fields(plain, Fields::Made{});
  Conversation conversation;
  ChatInput input;
  fields.accept({"messages"});
  input.messages = chat_messages(chat["messages"], model);
  read_template_fields(fields, chat, input, model);
  conversation.form = read_reply_form(fields, chat, input, model);
  fields.refuse_unknown(false);
  conversation.prompt = render_chat(input, model);
  conversation.ids = prompt_ids(conversation.prompt, false, model);
  conversation.boundaries = ends_of_turns(input, conversation.prompt, conversation.ids, model);
  constrain(conversation.form, conversation.prompt, model);
  return conversation;
}

base::Json chat_tokens_json(const base::Json& body, const std::string& text, const ServedModel& model) {
  const OrderedJson ordered = OrderedJson::parse(text);
  if (!body.contains("messages"))
    throw ApiError(400, "messages: expected an array of messages, found nothing", "messages");
  OrderedJson chat = OrderedJson::object();
  for (const char* key :
       {"messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort",
        "chat_template_kwargs", "continue_final_message", "add_generation_prompt", "documents"})
    if (ordered.contains(key)) chat[key] = ordered[key];
  return {{"object", "response.input_tokens"}, {"input_tokens", read_conversation(chat, model).ids.size()}};
}

void apply(const Conversation& conversation, const ServedModel& model, Request& request) {
  request.prompt = conversation.ids;
  request.boundaries = conversation.boundaries;
  apply(conversation.form, model, request);
}

}  // namespace coterie::serve
