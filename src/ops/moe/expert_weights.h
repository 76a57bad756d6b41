#pragma once

#include "ops/matmul.h"

// Letters: E experts, F expert width, D model width.
namespace coterie::ops {

/// What joins an expert's halves. With a limit it is gpt-oss's clamped SwiGLU, for experts that have a gate:
/// g * sigmoid(alpha * g) * (u + 1) with g = min(gate, limit), u = clamp(up, -limit, limit). With `clamped` it is Step
/// 3.5's: min(act(gate), limit) * clamp(up, -limit, limit).
struct GateRule {
  Activation activation = Activation::silu;
  float limit = 0, alpha = 1;  // limit 0: none
  bool clamped = false;

  GateRule() = default;
  GateRule(Activation activation_) : activation(activation_) {}  // NOLINT: most have nothing else
  GateRule(Activation activation_, float limit_, float alpha_)
      : activation(activation_), limit(limit_), alpha(alpha_) {}
  static GateRule clamped_by(Activation activation, float limit) {
    GateRule rule(activation, limit, 1);
    rule.clamped = limit != 0;
    return rule;
  }
};

/// One expert's first half. `up` alone (gate empty): h = act(up x + b). With gate: h = act(gate x + b) * (up x + b).
struct ExpertInput {
  Weight gate, up;  // [F, D] each
  const float* gate_bias = nullptr;
  const float* up_bias = nullptr;
  LowRank gate_low = {}, up_low = {};  // LoRA of the weights; where both have one A it is applied once
};

/// Its second half: down · h + bias.
struct ExpertOutput {
  Weight down;  // [D, F]
  const float* bias = nullptr;
  LowRank low = {};
};

}  // namespace coterie::ops
