#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/tokenizer.h"

namespace coterie::runtime {

/// Texts across which DRY sees no repetition, such as line breaks, found in the text that a sequence's tokens make: a
/// breaker may be a part of a token or span several.
class SequenceBreakers {
 public:
  /// None of the texts may be empty.
  SequenceBreakers(std::vector<std::string> texts, text::Tokenizer tokenizer);

  /// How many tokens come after the last one that ends a breaker; all of them where there is none. Tokens that were
  /// there at the call before are not decoded again.
  int64_t tokens_since(std::span<const text::TokenId> tokens);
  /// Whether the token alone contains a breaker.
  bool contains(text::TokenId id);

 private:
  void restart();
  void push(text::TokenId id);

  std::vector<std::string> texts_;
  size_t longest_ = 0;  // bytes of the longest text
  text::Tokenizer tokenizer_;
  text::StreamDecoder decoder_;
  std::vector<text::TokenId> seen_;
  std::string tail_;   // the end of the text so far, as much as may begin a breaker
  int64_t after_ = 0;  // how many of `seen_` come until the last breaker has ended
  std::unordered_map<text::TokenId, bool> contains_;
};

}  // namespace coterie::runtime
