#include "layers/moe/capacity.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "layers/moe/routers/best.h"

namespace coterie::layers {

int64_t capacity_of(const RouterSpec& spec, int64_t tokens) {
  const double even = static_cast<double>(tokens * spec.experts_per_token) / static_cast<double>(spec.experts);
  // A product that is whole but for its rounding is whole.
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(spec.capacity->factor * even * (1 - 1e-12))));
}

namespace {

/// The places of ids [N, K] in the order in which they are served.
std::vector<int64_t> order_of_service(const RouterSpec& spec, int64_t tokens, int64_t choices, const float* scores,
                                      const int32_t* ids) {
  std::vector<int64_t> order;
  order.reserve(static_cast<size_t>(tokens * choices));
  for (int64_t rank = 0; rank < choices; ++rank)
    for (int64_t t = 0; t < tokens; ++t)
      if (ids[t * choices + rank] >= 0) order.push_back(t * choices + rank);
  if (spec.capacity->order == RouterSpec::Capacity::Order::probability)
    std::stable_sort(order.begin(), order.end(), [scores](int64_t a, int64_t b) {
      return before(static_cast<double>(scores[a]), static_cast<double>(scores[b]));
    });
  return order;
}

}  // namespace

Overflow keep_to_capacity(const RouterSpec& spec, int64_t tokens, int64_t choices, const float* scores, int32_t* ids,
                          base::FunctionRef<int64_t(int64_t token, int32_t* ids)> ranking) {
  const int64_t capacity = capacity_of(spec, tokens);
  std::vector<int64_t> load(static_cast<size_t>(spec.experts)), left_out;
  for (const int64_t place : order_of_service(spec, tokens, choices, scores, ids)) {
    int64_t& used = load[static_cast<size_t>(ids[place])];
    used < capacity ? void(++used) : left_out.push_back(place);
  }
  // All that fit have their place before any that does not takes another's.
  Overflow result;
  for (const int64_t place : left_out) ids[place] = -2 - ids[place];
  std::vector<int32_t> ranked(static_cast<size_t>(spec.experts));
  for (const int64_t place : left_out) {
    int32_t next = -1;
    if (spec.capacity->next_best) {
      const int64_t t = place / choices, eligible = ranking(t, ranked.data());
      const int32_t* const mine = ids + t * choices;
      for (int64_t i = 0; i < eligible && next < 0; ++i)
        if (load[static_cast<size_t>(ranked[static_cast<size_t>(i)])] < capacity &&
            std::find(mine, mine + choices, ranked[static_cast<size_t>(i)]) == mine + choices)
          next = ranked[static_cast<size_t>(i)];
    }
    if (next < 0) {
      ++result.dropped;
      continue;
    }
    ids[place] = next, ++load[static_cast<size_t>(next)], ++result.overflowed;
  }
  return result;
}

}  // namespace coterie::layers
