#include "text/tokenizer.h"

#include "text/bridge_call.h"
#include "text/tokenizer_state.h"

namespace coterie::text {

using base::ErrorKind;
using base::fail;

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special) const {
  struct Ids {
    CoterieIds ids{};
    ~Ids() { coterie_ids_free(ids); }
  } found;
  BridgeBytes error;
  check_bridge(coterie_tokenizer_encode(state_->bridge.get(), slice(text), add_special, &found.ids, error.out()),
               state_->where, error);
  return std::vector<TokenId>(found.ids.data, found.ids.data + found.ids.size);
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  for (const TokenId id : ids)
    if (id < 0) fail(ErrorKind::bad_input, state_->where, "cannot decode the id {}", id);
  BridgeBytes text, error;
  // TokenId is signed as tensors of ids are; the values just checked are the same in uint32_t.
  check_bridge(coterie_tokenizer_decode(state_->bridge.get(), reinterpret_cast<const uint32_t*>(ids.data()), ids.size(),
                                        skip_special, text.out(), error.out()),
               state_->where, error);
  return std::string(text.view());
}

int64_t Tokenizer::vocabulary_size() const { return state_->size; }

std::optional<std::string> Tokenizer::token(TokenId id) const {
  if (id < 0) return {};
  BridgeBytes text, error;
  int32_t found = 0;
  check_bridge(
      coterie_tokenizer_token(state_->bridge.get(), static_cast<uint32_t>(id), text.out(), &found, error.out()),
      state_->where, error);
  if (!found) return {};
  return std::string(text.view());
}

std::optional<TokenId> Tokenizer::id(std::string_view token) const {
  const int64_t id = coterie_tokenizer_id(state_->bridge.get(), slice(token));
  if (id < 0) return {};
  return static_cast<TokenId>(id);
}

bool Tokenizer::is_special(TokenId id) const {
  return id >= 0 && coterie_tokenizer_is_special(state_->bridge.get(), static_cast<uint32_t>(id));
}

std::optional<TokenId> Tokenizer::bos() const { return state_->bos; }

const std::vector<TokenId>& Tokenizer::end_tokens() const { return state_->end; }

}  // namespace coterie::text
