#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

// GGUF names the pre-tokenizer of a byte-level BPE vocabulary by one word (tokenizer.ggml.pre). This table says what
// each word stands for.
namespace coterie::text {

struct PreTokenizer {
  base::Json normalizer;       // as in a tokenizer.json, or null
  base::Json pre_tokenizer;    // as in a tokenizer.json
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges would make of it
  bool add_bos = false;        // when the file does not say
};

/// Nothing for a name this table does not have.
std::optional<PreTokenizer> find_pre_tokenizer(std::string_view name);

/// The name of what a tokenizer.json says, exactly; nothing where there is none.
std::optional<std::string> pre_tokenizer_name(const base::Json& pre_tokenizer, const base::Json& normalizer,
                                              bool ignore_merges);

/// All names, for the message that refuses another.
std::string known_pre_tokenizers();

}  // namespace coterie::text
