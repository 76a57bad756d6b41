#pragma once

#include <span>

#include "ops/dropout.h"
#include "ops/moe/expert_weights.h"
#include "ops/moe/formed_rows.h"
#include "ops/moe/plan.h"

namespace coterie::ops {

/// Dropout of the values between an expert's halves: those of token t in expert e are dropped as by dropout() with
/// rows[t] at `place` + e.
struct ExpertDropout {
  float rate = 0;
  std::span<const DropoutRow> rows = {};  // [N]; not read for a rate of 0
  uint64_t place = 0;
};

/// Both halves of E experts as one op, which is what a tape records:
///   y[t] = Σ_{slots s of t} slot_weight[s] * (down_e · (act(gate_e · x[t]) * (up_e · x[t])) + bias_e)
/// x [N, D], y [N, D], `hidden` F; grouped_gated_matmul and grouped_down_combine one after the other, to the bit.
/// A dense FFN is one expert under dense_plan.
///
/// In the backward, gate · x and up · x are read, which the tape keeps [slots, F]; the gradient by slot_weight goes to
/// plan.weight_gradient, where there is one. The loss's gradient by the weight of an assignment that was not chosen or
/// was dropped is not defined here: routers that want one add it themselves.
///
/// `dropped`: a share of each expert's hidden values h is dropped before down reads them (Switch Transformer's expert
/// dropout, Fedus et al. 2021, arXiv:2101.03961, section 2.4).
void experts(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> inputs,
             std::span<const ExpertOutput> outputs, const GateRule& rule, int64_t hidden, Matrix y,
             const ExpertDropout& dropped = {});

/// What the routed experts that `ids` names give, apart for each of their slots:
///   out[s] = down_e · (act(gate_e · x[t]) * (up_e · x[t])) + bias_e
/// x [N, D], out [slots, D]; the rows of other experts' slots are left as they are, and nothing is read of their
/// weights. Called for all experts, in groups of any order, and followed by combine() it is experts() to the bit, so
/// that experts may arrive one after the other, or be computed elsewhere. Throws internal under a tape.
void expert_outputs(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const int32_t> ids,
                    std::span<const ExpertInput> inputs, std::span<const ExpertOutput> outputs, const GateRule& rule,
                    int64_t hidden, Matrix out);
/// The same of rows in a form that the experts' kernels read, or of floats.
void expert_outputs(Context& context, const FormedRows& x, const RoutingPlan& plan, std::span<const int32_t> ids,
                    std::span<const ExpertInput> inputs, std::span<const ExpertOutput> outputs, const GateRule& rule,
                    int64_t hidden, Matrix out);

}  // namespace coterie::ops
