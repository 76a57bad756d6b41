#pragma once

#include <cstdint>
#include <span>

#include "ops/context.h"
#include "ops/conv.h"
#include "tensor/view.h"

// Letters: N tokens, H heads, K channels of a key, C channels of a value.
namespace coterie::ops {

/// How much a token leaves of a head's state, in (0, 1]: of the whole state, or of each key channel's row of it. With
/// f = x + bias
///   without a floor: y = exp(a[h] * softplus(f)), as in Mamba-2 (Gated DeltaNet, arXiv:2412.06464; Kimi Linear,
///   arXiv:2510.26692); with one: y = exp(floor * sigmoid(-a[h] * f)), floor < 0 (Kimi Linear's bounded gate).
/// x, y [N, H * width], not the same; a [H], negative; bias [H * width].
struct Decay {
  int64_t heads = 0;
  const float* a = nullptr;
  const float* bias = nullptr;
  float floor = 0;  // 0: none
};
void decay(Context& context, const Decay& decay, tensor::ConstMatrix x, tensor::Matrix y);

/// The gated delta rule (kernels::DeltaRuleTile has the formula) along each sequence. Value head h reads and writes by
/// the queries and keys of key head h / (value_heads / key_heads), or, where heads come `by_turn`, h mod key_heads. A
/// sequence's state is [value_heads, key_dim, value_dim], zeros before the first token. The bits do not depend on how a
/// sequence is cut.
struct DeltaRule {
  int64_t key_heads = 0, value_heads = 0;
  int64_t key_dim = 0, value_dim = 0;
  bool by_turn = false;

  int64_t key_head(int64_t value_head) const {
    return by_turn ? value_head % key_heads : value_head / (value_heads / key_heads);
  }
};
struct DeltaInputs {
  tensor::ConstMatrix q, k;   // [N, key_heads * key_dim]
  tensor::ConstMatrix v;      // [N, value_heads * value_dim]
  tensor::ConstMatrix decay;  // [N, value_heads] or [N, value_heads * key_dim]
  tensor::ConstMatrix beta;   // [N, value_heads]
};
/// y [N, value_heads * value_dim], none of the inputs.
void delta_rule(Context& context, const DeltaRule& rule, const DeltaInputs& inputs,
                std::span<const Recurrence> sequences, tensor::Matrix y);

}  // namespace coterie::ops
