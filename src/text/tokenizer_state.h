#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "text/bridge/bridge.h"
#include "text/tokenizer.h"

namespace coterie::text {

struct BridgeTokenizerDeleter {
  void operator()(CoterieTokenizer* tokenizer) const { coterie_tokenizer_free(tokenizer); }
};

struct BridgeVocabularyDeleter {
  void operator()(CoterieVocabulary* vocabulary) const { coterie_vocabulary_free(vocabulary); }
};

/// What a Tokenizer holds: the Rust object, and what the files around it say.
struct TokenizerState {
  std::unique_ptr<CoterieTokenizer, BridgeTokenizerDeleter> bridge;
  std::string where;
  int64_t size = 0;
  std::optional<TokenId> bos;
  std::vector<TokenId> end;
  // Made for the first constraint: of 150,000 tokens it takes a part of a second.
  mutable std::once_flag vocabulary_once;
  mutable std::unique_ptr<CoterieVocabulary, BridgeVocabularyDeleter> vocabulary;

  TokenizerState(CoterieTokenizer* made, std::string_view from)
      : bridge(made), where(from), size(static_cast<int64_t>(coterie_tokenizer_size(made))) {}

  std::optional<TokenId> id(std::string_view token) const {
    const int64_t id = coterie_tokenizer_id(bridge.get(), {token.data(), token.size()});
    return id < 0 ? std::optional<TokenId>() : static_cast<TokenId>(id);
  }
  /// Adds to `end` once; ids that the vocabulary does not have are not added.
  void ends_with(std::optional<TokenId> id) {
    if (!id || *id < 0 || *id >= size) return;
    for (const TokenId known : end)
      if (known == *id) return;
    end.push_back(*id);
  }

  static const TokenizerState& of(const Tokenizer& tokenizer) { return *tokenizer.state_; }
  static Tokenizer finish(std::shared_ptr<const TokenizerState> state) { return Tokenizer(std::move(state)); }
};

}  // namespace coterie::text
