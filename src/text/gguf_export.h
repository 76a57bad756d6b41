#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "text/tokenizer.h"

namespace coterie::text {

/// A tokenizer.json as it is, for a GGUF that has no words for it (tokenizer.huggingface.json).
struct WholeTokenizer {
  std::string json;
  std::optional<TokenId> bos, eos, eot;
};
/// Throws bad_input for ids outside of the vocabulary.
Tokenizer tokenizer_of(const WholeTokenizer& whole, std::string_view where);

/// The tokenizer as the text of a tokenizer.json, for one that was read from GGUF. Its post-processor goes along; which
/// tokens begin and end a text is for the files beside it to say.
std::string tokenizer_json(const Tokenizer& tokenizer);

/// A tokenizer.json in GGUF's words, or why GGUF has none for it.
struct GgufExport {
  std::optional<GgufVocabulary> vocabulary;
  std::string why_not;
};

/// Byte-level BPE whose pre-tokenizer has a name (tokenizer.ggml.pre). `file`: the tokenizer.json that `tokenizer` was
/// read from; `rows`: tokens the model has, of which those without a text become unused ones. What is made is read back
/// and compared with the tokenizer on texts of many kinds: it is handed out only if every id is the same.
GgufExport to_gguf(const Tokenizer& tokenizer, const base::Json& file, int64_t rows);

/// Texts that set tokenizers apart: scripts, digits, white space, contractions, marks, emoji.
std::span<const std::string_view> telling_texts();

}  // namespace coterie::text
