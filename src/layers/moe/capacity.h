#pragma once

#include <cstdint>
#include <span>

#include "base/function_ref.h"
#include "layers/moe/choose.h"
#include "layers/moe/router_spec.h"

namespace coterie::layers {

/// Tokens that an expert takes of a batch of `tokens`: ceil(factor * N * K / E), at least 1.
int64_t capacity_of(const RouterSpec& spec, int64_t tokens);

struct Overflow {
  int64_t overflowed = 0, dropped = 0;  // assignments that went to another expert, that went to none
};

/// Keeps every expert to its capacity, by the rule of spec.capacity, one assignment after another, so that no result
/// depends on threads. ids [N, K], changed in place: another expert where an assignment went on, -2 - id where it was
/// dropped; -1 is none and stays. `scores` [N, K]: what the chosen are ordered by under Order::probability (NaN last);
/// else not read. ranking(t, ids): all experts of a token, best first, as many as it returns (rank_experts).
Overflow keep_to_capacity(const RouterSpec& spec, int64_t tokens, int64_t choices, const float* scores, int32_t* ids,
                          base::FunctionRef<int64_t(int64_t token, int32_t* ids)> ranking);

}  // namespace coterie::layers
