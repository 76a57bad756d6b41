#include "serve/api/prompts.h"

#include <fmt/format.h>

#include "serve/api/api_error.h"
#include "serve/api/chat_prompt.h"

namespace coterie::serve {

namespace {

text::TokenId id_of(const base::Json& value, std::string_view name, const ServedModel& model) {
  const bool whole = value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT32_MAX);
  const int64_t id = whole ? value.get<int64_t>() : -1;
  if (id < 0 || id >= model.vocabulary)
    throw ApiError(400,
                   fmt::format("{}: {} is not an id of this vocabulary of {}", name, dumped(value), model.vocabulary),
                   std::string(name));
  return static_cast<text::TokenId>(id);
}

}  // namespace

Prompt read_prompt(const base::Json& value, std::string_view name, bool add_special, const ServedModel& model) {
  Prompt prompt;
  if (value.is_object()) {  // llama.cpp's form, which may bring pictures along
    Fields fields(value, std::string(name) + ".");
    fields.refuse("multimodal_data", "this model reads text alone", base::Json::array());
    if (!fields.string("prompt_string")) fields.wrong("prompt_string", "a text");
    fields.refuse_unknown(false);
    return read_prompt(value["prompt_string"], name, add_special, model);
  }
  if (value.is_string()) {
    prompt.text = value.get<std::string>();
    prompt.ids = model.tokenizer.encode(prompt.text, add_special);
  } else if (value.is_array()) {
    bool first = true;
    for (const base::Json& each : value) {
      if (each.is_string()) {
        const std::vector<text::TokenId> piece = model.tokenizer.encode(each.get<std::string>(), add_special && first);
        prompt.ids.insert(prompt.ids.end(), piece.begin(), piece.end());
      } else {
        prompt.ids.push_back(id_of(each, name, model));
      }
      first = false;
    }
    prompt.text = model.tokenizer.decode(prompt.ids, false);
  } else {
    throw ApiError(400, fmt::format("{}: expected a text or a list of token ids", name), std::string(name));
  }
  if (prompt.ids.empty() && model.tokenizer.bos()) prompt.ids.push_back(*model.tokenizer.bos());
  if (prompt.ids.empty())
    throw ApiError(400, fmt::format("{}: is empty, there is nothing to continue", name), std::string(name));
  require_room(prompt.ids.size(), model);
  return prompt;
}

std::vector<Prompt> read_prompts(Fields& fields, std::string_view name, bool add_special, const ServedModel& model) {
  const base::Json* const value = fields.value(name);
  if (!value)
    throw ApiError(400, fmt::format("{}: expected a text, token ids, or a list of either; found nothing", name),
                   std::string(name));
  const bool list = value->is_array() && !value->empty() && !value->front().is_number();
  if (!list) return {read_prompt(*value, name, add_special, model)};
  std::vector<Prompt> prompts;
  for (const base::Json& each : *value) prompts.push_back(read_prompt(each, name, add_special, model));
  return prompts;
}

}  // namespace coterie::serve
