#pragma once

#include <span>

#include "ops/context.h"
#include "tensor/view.h"

// Letters: N tokens, K inputs, M outputs, H heads.
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

/// Row n · H + h of y = row n · H + h of x times W_hᵀ, for H weights: the heads of latent attention, each with a matrix
/// of its own. x [N · H, K], W_h [M, K], y [N · H, M]. The bits are those of a matmul for each head.
void batched_matmul(Context& context, ConstMatrix x, std::span<const Weight> weights, Matrix y);

}  // namespace coterie::ops
