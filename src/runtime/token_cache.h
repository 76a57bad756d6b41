#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kv_cache.h"
#include "text/tokenizer.h"

namespace coterie::runtime {

/// A KV cache and the ids it was computed from: ids.size() == cache.length(). What a conversation keeps between turns.
struct TokenCache {
  KvCache cache;
  std::vector<text::TokenId> ids;

  /// Cuts the cache to the longest common prefix with `wanted` and returns its length.
  int64_t keep_prefix(std::span<const text::TokenId> wanted) {
    size_t common = 0;
    while (common < ids.size() && common < wanted.size() && ids[common] == wanted[common]) ++common;
    ids.resize(common);
    cache.truncate(static_cast<int64_t>(common));
    return static_cast<int64_t>(common);
  }
};

}  // namespace coterie::runtime
