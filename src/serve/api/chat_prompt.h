#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "serve/api/fields.h"
#include "serve/api/model.h"

namespace coterie::serve {

/// JSON whose objects keep the order of their keys: a template prints tools and arguments as the client wrote them.
using OrderedJson = nlohmann::ordered_json;

/// What a chat template is given.
struct ChatInput {
  OrderedJson messages = OrderedJson::array();
  OrderedJson extra = OrderedJson::object();  // tools, enable_thinking, …
  bool add_generation_prompt = true;
  bool continue_final = false;  // the answer goes on with the last message's text
};

/// Messages of OpenAI's chat API as templates read them: contents as text, arguments of calls as objects, `developer`
/// as `system` where the template does not know it. Throws ApiError 400 naming the message at fault.
OrderedJson chat_messages(const OrderedJson& messages, const ServedModel& model);
/// Fields that say how the prompt is made: chat_template_kwargs, reasoning_effort, add_generation_prompt,
/// continue_final_message, documents.
void read_template_fields(Fields& fields, const OrderedJson& body, ChatInput& input, const ServedModel& model);
/// The prompt's text. Throws ApiError 400 where the model has no template, or it refuses the messages.
std::string render_chat(const ChatInput& input, const ServedModel& model);
/// Positions of the prompt before which all may be the same in other prompts, ascending: the end of the system prompt
/// and those of the last turns. For models that keep copies of recurrent states there; none for others.
std::vector<int64_t> ends_of_turns(const ChatInput& input, const std::string& text, std::span<const text::TokenId> ids,
                                   const ServedModel& model);
/// Its ids. Throws ApiError 400 with the figures when it leaves no room in the context.
std::vector<text::TokenId> prompt_ids(const std::string& text, bool add_special, const ServedModel& model);
void require_room(size_t tokens, const ServedModel& model);

}  // namespace coterie::serve
