#pragma once

#include "serve/api/reply.h"

namespace coterie::serve {

/// A chat's prompt and the form of its answer, whichever API it came by.
struct Conversation {
  std::string prompt;
  std::vector<text::TokenId> ids;
  std::vector<int64_t> boundaries;
  ReplyForm form;
};

/// `chat`: fields of /v1/chat/completions, of those messages, tools, tool_choice, parallel_tool_calls, response_format,
/// reasoning_effort, chat_template_kwargs and continue_final_message.
Conversation read_conversation(const OrderedJson& chat, const ServedModel& model);
/// The prompt, the constraint and what follows from the form.
void apply(const Conversation& conversation, const ServedModel& model, Request& request);

}  // namespace coterie::serve
