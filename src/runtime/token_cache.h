#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/decoder.h"
#include "runtime/kv_cache.h"
#include "text/tokenizer.h"

namespace coterie::runtime {

/// A KV cache and the ids it was computed from: ids.size() == cache.length(). What a conversation keeps between turns.
struct TokenCache {
  KvCache cache;
  std::vector<text::TokenId> ids;
  // The length of the sequence that the keys were last written for: they may be rotated otherwise for another
  // (models::Decoder::cache_holds).
  int64_t written_for = 0;

  /// The same tokens for another sequence (KvCache::fork).
  TokenCache fork() const { return {cache.fork(), {ids.begin(), ids.begin() + cache.length()}, written_for}; }

  /// Cuts the cache to the longest common prefix with `wanted`, or as far before its end as the nearest snapshot of
  /// recurrent states, and returns what is left.
  int64_t keep_prefix(std::span<const text::TokenId> wanted) {
    ids.resize(static_cast<size_t>(cache.length()));  // shorter after a step that failed
    size_t common = 0;
    while (common < ids.size() && common < wanted.size() && ids[common] == wanted[common]) ++common;
    ids.resize(static_cast<size_t>(cache.truncate(static_cast<int64_t>(common))));
    return cache.length();
  }

  /// The same for a sequence that will be `length` tokens long: nothing is kept where its keys differ from those of the
  /// sequence that they were written for (models::Decoder::cache_holds).
  int64_t keep_prefix_for(const models::Decoder& model, std::span<const text::TokenId> wanted, int64_t length) {
    const int64_t kept = keep_prefix(wanted);
    return model.cache_holds(kept, length) && model.cache_holds(written_for, length) ? kept : keep_prefix({});
  }
};

}  // namespace coterie::runtime
