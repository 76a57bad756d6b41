#pragma once

#include <span>

#include "ops/context.h"
#include "ops/moe/plan.h"
#include "tensor/view.h"

namespace coterie::ops {

using tensor::ConstMatrix;
using tensor::Matrix;

// Rows by slot of a RoutingPlan, for mixtures that do more between its halves than ops::experts: experts that read
// weighted inputs (Llama 4), experts with an attention between their two projections (JetMoE).

/// Whether rows are multiplied by their slot's weight on the way. The gradient by it goes to plan.weight_gradient.
enum class ByWeight { no, yes };

/// y[s] = (slot_weight[s] *) x[slot_token[s]]. x [N, D], y [slots, D].
void to_slots(Context& context, ConstMatrix x, const RoutingPlan& plan, ByWeight by, Matrix y);
/// y[t] = Σ_{slots s of t, in the order of token_slot} (slot_weight[s] *) x[s]. x [slots, D], y [N, D].
void from_slots(Context& context, ConstMatrix x, const RoutingPlan& plan, ByWeight by, Matrix y);

/// y[t] += Σ_{slots s ≥ first of t} slot_weight[s] * x[t]: experts that give back what they read. x, y [N, D].
void add_identity(Context& context, ConstMatrix x, const RoutingPlan& plan, int64_t first, Matrix y);

/// x[n] *= factor[n]. The factors are constants: they get no gradient.
void scale_rows(Context& context, Matrix x, std::span<const float> factor);
/// x[n] += bias. x [N, D], bias [D].
void add_to_rows(Context& context, const float* bias, Matrix x);

}  // namespace coterie::ops
