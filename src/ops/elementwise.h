#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::ops {

using tensor::ConstMatrix;
using tensor::Matrix;

/// y = x / sqrt(mean(x²) + eps) * (weight + offset), row by row. x, y [N, D]; weight [D]; y may be x.
/// offset 1 is Gemma's (1 + w). (Zhang & Sennrich 2019)
void rms_norm(Context& context, ConstMatrix x, const float* weight, float eps, Matrix y, float offset = 0);
/// The same over each of `groups` pieces of a row; weight [cols].
void rms_norm_groups(Context& context, ConstMatrix x, int64_t groups, const float* weight, float eps, Matrix y);
/// The same over each of `heads` pieces of a row, with one weight [cols/heads] for all (Qwen3's q/k norm).
void rms_norm_heads(Context& context, Matrix x, int64_t heads, const float* weight, float eps, float offset = 0);
/// y = (x - mean) / sqrt(var + eps) * weight + bias; bias may be null.
void layer_norm(Context& context, ConstMatrix x, const float* weight, const float* bias, float eps, Matrix y);

/// y = x, another matrix of the same shape.
void copy(Context& context, ConstMatrix x, Matrix y);
/// x = value, everywhere.
void fill(Context& context, Matrix x, float value);
/// y[i] = x[rows[i]]. x [N, D], y [rows, D].
void copy_rows(Context& context, ConstMatrix x, std::span<const int64_t> rows, Matrix y);
/// y += scale * x.
void add(Context& context, ConstMatrix x, Matrix y, float scale = 1);
/// x *= factor.
void scale(Context& context, Matrix x, float factor);
/// x[n, i] = x[n, i] * (factor[i] / divisor[i]) + bias[i]. factor, divisor, bias [D]; bias may be null. The divisor is
/// a constant: it gets no gradient.
void scale_columns(Context& context, Matrix x, const float* factor, const float* divisor, const float* bias);
/// x = cap * tanh(x / cap) (Gemma 2, arXiv:2408.00118, section 2). cap > 0.
void softcap(Context& context, Matrix x, float cap);
/// x = clamp(x, -limit, limit) (OLMo's clip_qkv).
void clamp(Context& context, Matrix x, float limit);
/// y[n] = sigmoid(gate[n]) * x[n] + y[n]. gate [N, 1] (Qwen2-MoE's shared expert).
void add_gated(Context& context, ConstMatrix x, ConstMatrix gate, Matrix y);

/// x = activation(x).
void activate(Context& context, kernels::Activation activation, Matrix x);
/// gate = activation(gate) * x.
void gate(Context& context, kernels::Activation activation, Matrix gate, ConstMatrix x);

/// x[n, head h] *= factor[n, h]. x [N, H * width], factor [N, H].
void scale_heads(Context& context, ConstMatrix factor, Matrix x);

/// y[i] = scale * row ids[i] of the table, decoded. table [V, D], y [N, D].
void embed(Context& context, std::span<const int32_t> ids, const tensor::Weight& table, Matrix y, float scale = 1);

/// Rotary embedding with given cos and sin, which hold what scaling there is.
struct RopeTable {
  enum class Style {
    half,        // pairs (i, i + dims/2): Hugging Face checkpoints, GGUF "NEOX"
    interleaved  // pairs (2i, 2i + 1): GGUF's permuted llama, DeepSeek
  };
  Style style = Style::half;
  int64_t dims = 0;              // of each head, from its start, are rotated; the rest pass through
  std::vector<float> frequency;  // [dims/2] radians a position
  float magnitude = 1;           // cos and sin are multiplied by it (YaRN's attention factor)
};
/// Turns every head of x [N, heads*head_dim] by its row's position. Angles in f32 as the reference computes them
/// (position * frequency), cos and sin correctly rounded to f32.
void rope(Context& context, const RopeTable& table, std::span<const int32_t> positions, int64_t heads, Matrix x);

/// In place, each row: x = x - log(sum(exp(x))). [N, V]
void log_softmax(Context& context, Matrix x);

}  // namespace coterie::ops
