#include "serve/api/conversation.h"

#include "serve/api/api_error.h"

namespace coterie::serve {

Conversation read_conversation(const OrderedJson& chat, const ServedModel& model) {
  const base::Json plain = base::Json::parse(chat.dump());
  Fields fields(plain);
  Conversation conversation;
  ChatInput input;
  fields.accept({"messages"});
  input.messages = chat_messages(chat["messages"], model);
  read_template_fields(fields, chat, input);
  conversation.form = read_reply_form(fields, chat, input, model);
  fields.refuse_unknown(false);
  conversation.prompt = render_chat(input, model);
  conversation.ids = prompt_ids(conversation.prompt, false, model);
  settle(conversation.form, conversation.prompt, model);
  return conversation;
}

void apply(const Conversation& conversation, const ServedModel& model, Request& request) {
  request.prompt = conversation.ids;
  apply(conversation.form, model, request);
}

}  // namespace coterie::serve
