#pragma once

#include <cstdint>

#include "runtime/kv_cache.h"
#include "serve/routes.h"

namespace coterie::serve {

/// How `memory` bytes are divided among what is kept of sequences, so that all together never exceed it: pages of keys
/// and values, the routes and the tree's node that come with each, and recurrent states.
struct CacheBudget {
  int64_t memory = 0;
  int64_t beside_page = 0;  // bytes that each page brings with it
  int64_t page_memory = 0;  // the pool's limit; 0 where there are no pages
  int64_t states = 0;       // states in all, those of running sequences included; 0 where there are none
  static constexpr int64_t kSnapshots = 2;
  int64_t states_of_sequence = 1 + kSnapshots;  // one that moves on, its snapshots, and one for each drafted token
};
inline constexpr int64_t kNodeBytes = 384;

/// Throws out_of_memory, with the figures, when not even a sequence of 256 positions fits.
CacheBudget cache_budget(const runtime::CacheShape& shape, const RouteLayout& routes, bool keep_routes, int64_t memory);

}  // namespace coterie::serve
