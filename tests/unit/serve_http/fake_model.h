#pragma once

#include "serve/api/model.h"

namespace coterie::serve::test {

/// A vocabulary of the 256 bytes, <|end|>, <|user|> and <|assistant|>.
text::Tokenizer byte_tokenizer();
inline constexpr text::TokenId kEnd = 256;
ServedModel fake_model();
/// One whose template writes calls as Hermes and Qwen do, and begins with reasoning.
ServedModel calling_model();

}  // namespace coterie::serve::test
