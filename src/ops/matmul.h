#pragma once

#include <span>

#include "ops/context.h"
#include "ops/plan.h"
#include "tensor/view.h"

// Letters: N tokens, K inputs, M outputs, E experts, F expert width, D model width.
namespace coterie::ops {

using tensor::ConstMatrix;
using tensor::Matrix;
using tensor::Weight;

/// y = x · Wᵀ + bias. x [N, K], W [M, K] of any weight dtype, bias [M] or null, y [N, M].
/// Each output is reduced in one order, fixed by (format, instruction set, K): the same bits for any N, any thread
/// count.
void matmul(Context& context, ConstMatrix x, const Weight& w, const float* bias, Matrix y);

/// Several weights over the same x (q, k, v): its rows are quantised once and the work of all is split together.
struct MatmulTarget {
  Weight w;
  const float* bias = nullptr;
  Matrix y;
};
void matmul_each(Context& context, ConstMatrix x, std::span<const MatmulTarget> targets);

using kernels::Activation;  // silu, gelu, gelu_tanh, relu, relu2, identity

/// What joins an expert's halves. With a limit it is gpt-oss's clamped SwiGLU, for experts that have a gate:
/// g * sigmoid(alpha * g) * (u + 1) with g = min(gate, limit), u = clamp(up, -limit, limit).
struct GateRule {
  Activation activation = Activation::silu;
  float limit = 0, alpha = 1;  // limit 0: none

  GateRule() = default;
  GateRule(Activation activation_) : activation(activation_) {}  // NOLINT: most have nothing else
  GateRule(Activation activation_, float limit_, float alpha_)
      : activation(activation_), limit(limit_), alpha(alpha_) {}
};

/// What low-rank tuning adds to a weight W [M, K] that stays as it is: y = x·Wᵀ + scale · (x·Aᵀ)·Bᵀ (LoRA, Hu et al.
/// 2021, arXiv:2106.09685). Computed in f32 whatever the precision and the format of W; with B = 0 the bits of y are
/// those without it.
struct LowRank {
  Weight a, b;  // [r, K], [M, r], f32
  float scale = 1;

  explicit operator bool() const { return static_cast<bool>(a); }
};
/// y += scale · (x·Aᵀ)·Bᵀ. x [N, K], y [N, M].
void add_low_rank(Context& context, ConstMatrix x, const LowRank& low, Matrix y);

/// One expert's first half. `up` alone (gate empty): h = act(up x + b). With gate: h = act(gate x + b) * (up x + b).
struct ExpertInput {
  Weight gate, up;  // [F, D] each
  const float* gate_bias = nullptr;
  const float* up_bias = nullptr;
  LowRank gate_low = {}, up_low = {};  // laid over the weights; where both have one A it is applied once
};
/// h[s] = act(gate_e · x[t]) * (up_e · x[t]) for each slot s = (token t, expert e) of the plan. x [N, D], h [slots, F].
/// Each expert's weights are read once for the batch; the activation is applied while the outputs are in cache.
void grouped_gated_matmul(Context& context, ConstMatrix x, const RoutingPlan& plan,
                          std::span<const ExpertInput> experts, const GateRule& rule, Matrix h);

struct ExpertOutput {
  Weight down;  // [D, F]
  const float* bias = nullptr;
  LowRank low = {};
};
/// y[t] = Σ_{slots s of t} slot_weight[s] * (down_e · h[s] + bias_e), summed in the order of plan.token_slot.
/// h [slots, F], y [N, D]; overwrites y. A token without slots gets zeros.
void grouped_down_combine(Context& context, ConstMatrix h, const RoutingPlan& plan,
                          std::span<const ExpertOutput> experts, Matrix y);

}  // namespace coterie::ops
