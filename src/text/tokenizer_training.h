#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace coterie::text {

/// What a vocabulary is to be made of.
struct TokenizerRecipe {
  enum class Kind {
    bytes,       // each byte is a token, its value the id
    characters,  // each character of the texts is a token, in the order of the code points; another one is refused
    bpe,         // byte-level BPE (Sennrich et al. 2016; GPT-2's split into words and its bytes)
  };
  Kind kind = Kind::bpe;
  int64_t vocabulary = 0;     // bpe: tokens at most, the special ones and the 256 bytes included
  int64_t min_frequency = 2;  // bpe: of a pair that is merged
  // Tokens that no text is made of, bpe: the first ids, otherwise the last. The first of them ends a text.
  std::vector<std::string> special;
};

/// Trains on the texts and returns the text of a tokenizer.json. The same recipe and texts give the same bytes. Throws
/// bad_input for a vocabulary smaller than its parts, for texts that are empty or not UTF-8, and for special tokens
/// that are empty or the same.
std::string train_tokenizer(const TokenizerRecipe& recipe, std::span<const std::string_view> texts);

/// Writes tokenizer.json, and tokenizer_config.json that says which token ends a text, into `folder`.
void write_tokenizer(const TokenizerRecipe& recipe, std::string_view tokenizer_json,
                     const std::filesystem::path& folder);

}  // namespace coterie::text
