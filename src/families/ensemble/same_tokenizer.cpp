#include "families/ensemble/same_tokenizer.h"

#include <fmt/format.h>

#include "base/error.h"
#include "text/gguf_export.h"

namespace coterie::families {

namespace {

std::optional<std::vector<text::TokenId>> ids_of(const text::Tokenizer& tokenizer, std::string_view text) {
  try {
    return tokenizer.encode(text, true);
  } catch (const base::Error&) {
    return {};  // characters that a vocabulary of characters has not
  }
}

}  // namespace

void require_same_tokenizer(const Model& a, const Model& b) {
  const std::string where = b.path.path.string();
  const auto refuse = [&](const std::string& what) {
    throw base::Error(base::ErrorKind::unsupported, where,
                      fmt::format("its tokenizer is not that of {}: {}", a.path.path.string(), what),
                      "weights that read other tokens do not go together");
  };
  if (!a.tokenizer && !b.tokenizer) return;
  for (const Model* model : {&a, &b})
    if (!model->tokenizer)
      throw base::Error(base::ErrorKind::bad_input, model->path.path.string(),
                        "there is no tokenizer, so its tokens cannot be compared with those of the others",
                        "copy the tokenizer's files into the folder: " + model->no_tokenizer);
  const int64_t count = a.tokenizer->vocabulary_size();
  if (b.tokenizer->vocabulary_size() != count)
    refuse(fmt::format("{} tokens there, {} here", count, b.tokenizer->vocabulary_size()));
  for (int64_t i = 0; i < count; ++i) {
    const auto id = static_cast<text::TokenId>(i);
    const auto one = a.tokenizer->token(id), other = b.tokenizer->token(id);
    if (one != other)
      refuse(fmt::format("token {} is \"{}\" there, \"{}\" here", i, one.value_or(""), other.value_or("")));
  }
  for (const std::string_view text : text::telling_texts())
    if (ids_of(*a.tokenizer, text) != ids_of(*b.tokenizer, text))
      refuse(fmt::format("\"{}\" becomes other tokens", text));
}

}  // namespace coterie::families
