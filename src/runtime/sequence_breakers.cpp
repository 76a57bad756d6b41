#include "runtime/sequence_breakers.h"

#include <algorithm>
#include <utility>

namespace coterie::runtime {

SequenceBreakers::SequenceBreakers(std::vector<std::string> texts, text::Tokenizer tokenizer)
    : texts_(std::move(texts)), tokenizer_(std::move(tokenizer)), decoder_(tokenizer_, false) {
  for (const std::string& text : texts_) longest_ = std::max(longest_, text.size());
}

void SequenceBreakers::restart() {
  decoder_ = text::StreamDecoder(tokenizer_, false);
  seen_.clear();
  tail_.clear();
  after_ = 0;
}

void SequenceBreakers::push(text::TokenId id) {
  seen_.push_back(id);
  const size_t before = tail_.size();
  tail_ += decoder_.push(id);
  for (const std::string& text : texts_) {
    // Only what ends in the new text; what ended before has been found before.
    const size_t at = tail_.rfind(text);
    if (at != std::string::npos && at + text.size() > before) after_ = std::ssize(seen_);
  }
  if (tail_.size() >= longest_) tail_.erase(0, tail_.size() - (longest_ - 1));
}

int64_t SequenceBreakers::tokens_since(std::span<const text::TokenId> tokens) {
  if (seen_.size() > tokens.size() || !std::equal(seen_.begin(), seen_.end(), tokens.begin())) restart();
  for (const text::TokenId id : tokens.subspan(seen_.size())) push(id);
  return std::ssize(seen_) - after_;
}

bool SequenceBreakers::contains(text::TokenId id) {
  const auto [place, fresh] = contains_.try_emplace(id, false);
  if (fresh) {
    const std::string token = tokenizer_.decode({&id, 1}, false);
    place->second = std::any_of(texts_.begin(), texts_.end(),
                                [&](const std::string& text) { return token.find(text) != std::string::npos; });
  }
  return place->second;
}

}  // namespace coterie::runtime
