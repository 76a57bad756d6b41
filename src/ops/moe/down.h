#pragma once

#include <span>

#include "ops/moe/expert_weights.h"
#include "ops/moe/plan.h"

namespace coterie::ops {

/// y[t] = Σ_{slots s of t} slot_weight[s] * (down_e · h[s] + bias_e), summed in the order of plan.token_slot.
/// h [slots, F], y [N, D]; overwrites y. A token without slots gets zeros. Refuses a tape: experts() has a backward.
void grouped_down_combine(Context& context, ConstMatrix h, const RoutingPlan& plan,
                          std::span<const ExpertOutput> experts, Matrix y);

/// The same cut in two, to the bit, so that outputs may come from elsewhere in between:
/// out[s] = down_e · h[s] + bias_e, apart for each slot. h [slots, F], out [slots, D].
void grouped_down(Context& context, ConstMatrix h, const RoutingPlan& plan, std::span<const ExpertOutput> experts,
                  Matrix out);
/// y[t] = Σ_{slots s of t} slot_weight[s] * out[s], in the order of plan.token_slot. out [slots, D], y [N, D].
void combine(Context& context, const RoutingPlan& plan, ConstMatrix out, Matrix y);
/// The same of rows that lie anywhere: `out` [slots], each of y's columns.
void combine(Context& context, const RoutingPlan& plan, std::span<const float* const> out, Matrix y);

// Inside the room:

/// grouped_down and grouped_down_combine, with h · Aᵀ [slots, r] left in `low` where it has data.
void down_apart(Context& context, ConstMatrix h, const RoutingPlan& plan, std::span<const ExpertOutput> experts,
                Matrix out, Matrix low);
void down_combine(Context& context, ConstMatrix h, const RoutingPlan& plan, std::span<const ExpertOutput> experts,
                  Matrix y, Matrix low);

}  // namespace coterie::ops
