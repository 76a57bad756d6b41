#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "serve/api/fields.h"
#include "serve/api/model.h"

namespace coterie::serve {

struct Prompt {
  std::vector<text::TokenId> ids;
  std::string text;
};

/// A text, ids, or a list of either: "…", [1, 2], ["…", "…"], [[1, 2], [3]]. Throws ApiError 400 for anything else, for
/// ids outside of the vocabulary, and for prompts that are empty or leave no room in the context. An empty text is the
/// token that begins texts, where the model has one.
std::vector<Prompt> read_prompts(Fields& fields, std::string_view name, bool add_special, const ServedModel& model);
/// One of them; llama.cpp's lists that mix texts and ids as well.
Prompt read_prompt(const base::Json& value, std::string_view name, bool add_special, const ServedModel& model);

}  // namespace coterie::serve
