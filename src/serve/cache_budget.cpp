#include "serve/cache_budget.h"

#include <algorithm>

#include "base/error.h"
#include "base/memory.h"
#include "tensor/buffer.h"

namespace coterie::serve {

CacheBudget cache_budget(const runtime::CacheShape& shape, const RouteLayout& routes, bool keep_routes,
                         int64_t memory) {
  CacheBudget budget{.memory = memory};
  const int64_t page = (shape.page_bytes() + tensor::kAlignment - 1) / tensor::kAlignment * tensor::kAlignment;
  const int64_t state = shape.state.bytes();
  budget.states_of_sequence += shape.state.drafted;
  budget.beside_page = kNodeBytes + (keep_routes ? routes.page_bytes() : 0);
  // As many states as a long prompt leaves: one every `interval` positions, and those of sequences that run.
  const double pages_each = static_cast<double>(shape.state.interval) / ops::kCacheBlock;
  const double of_pages = pages_each * static_cast<double>(page + budget.beside_page);
  const double of_states = 2 * static_cast<double>(state);
  const auto state_memory = static_cast<int64_t>(static_cast<double>(memory) * of_states / (of_states + of_pages));
  if (state > 0) budget.states = state_memory / state;
  if (page > 0) {
    const double share = static_cast<double>(page) / static_cast<double>(page + budget.beside_page);
    budget.page_memory = static_cast<int64_t>(static_cast<double>(memory - state_memory) * share);
  }
  constexpr int64_t kLeastPages = 256 / ops::kCacheBlock;
  if (budget.page_memory < kLeastPages * page || (state > 0 && budget.states < budget.states_of_sequence + 1)) {
    const int64_t least = kLeastPages * (page + budget.beside_page) + (budget.states_of_sequence + 1) * state;
    throw base::Error(base::ErrorKind::out_of_memory, "serve.cache_memory",
                      fmt::format("{} do not hold a sequence of 256 tokens, which needs about {}",
                                  base::human_bytes(memory), base::human_bytes(2 * least)),
                      "give the cache more memory");
  }
  return budget;
}

}  // namespace coterie::serve
