#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "ops/context.h"
#include "ops/conv.h"
#include "tensor/view.h"

// Letters: N tokens, C channels, H heads, S states of a channel.
namespace coterie::ops {

/// y = clamp(log(1 + exp(x + bias)), low, high): the time step from its projection. x, y [N, C], y may be x; bias [C]
/// or null.
void softplus(Context& context, tensor::ConstMatrix x, const float* bias, tensor::Matrix y, float low = 0,
              float high = std::numeric_limits<float>::infinity());

/// What goes into the state (b) and how it is read (c): for group g of the channels the S columns from g *
/// `group_stride` on. Both [N, ≥ (groups - 1) * group_stride + S].
struct ScanInputs {
  tensor::ConstMatrix b, c;
  int64_t groups = 1, group_stride = 0;
};

/// The selective scan of Mamba (Gu & Dao 2023, arXiv:2312.00752), along each sequence:
///   h[s, ch] = exp(dt * a[s, ch]) * h[s, ch] + dt * b[s] * x;   y = Σ_s c[s] * h[s, ch] + d[ch] * x
/// x, dt, y [N, C], y not x; a [S, C], negative; d [C]; group g of the inputs serves channels [g C/groups, …). A
/// sequence's state is h [S, C], zeros before the first token. The bits do not depend on how a sequence is cut.
struct SelectiveScan {
  int64_t states = 0;
  const float* a = nullptr;
  const float* d = nullptr;
};
void selective_scan(Context& context, const SelectiveScan& scan, tensor::ConstMatrix x, tensor::ConstMatrix dt,
                    const ScanInputs& inputs, std::span<const Recurrence> sequences, tensor::Matrix y);

/// The scan of Mamba-2 (Dao & Gu 2024, arXiv:2405.21060): H heads of C/H channels, with one decay a[h] and one d[h] for
/// a head and dt [N, H]; group g of the inputs serves heads [g H/groups, …). A sequence's state is h [H, S, C/H].
/// Where `decay` [N, H] is given it is exp(dt a) as it shall be rounded, and `a` is for the backward pass alone.
struct HeadScan {
  int64_t heads = 0, states = 0;
  const float* a = nullptr;
  const float* d = nullptr;
  tensor::ConstMatrix decay = {};
};
void head_scan(Context& context, const HeadScan& scan, tensor::ConstMatrix x, tensor::ConstMatrix dt,
               const ScanInputs& inputs, std::span<const Recurrence> sequences, tensor::Matrix y);

}  // namespace coterie::ops
