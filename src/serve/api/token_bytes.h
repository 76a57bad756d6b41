#pragma once

#include <string>

#include "text/tokenizer.h"

namespace coterie::serve {

/// The bytes that a token stands for within a text. Decoding it alone would lose them where a token is a part of a
/// character, or begins with a space that a text's first token drops.
class TokenBytes {
 public:
  explicit TokenBytes(const text::Tokenizer& tokenizer);
  /// Empty for an id that the vocabulary does not have.
  std::string of(text::TokenId id) const;

 private:
  // How a vocabulary writes bytes: by GPT-2's 256 letters, or as SentencePiece does, "▁" for a space and <0x0A>.
  enum class Writing { letters, pieces, plain };
  text::Tokenizer tokenizer_;
  Writing writing_;
};

}  // namespace coterie::serve
