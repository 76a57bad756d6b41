#pragma once

#include <memory>
#include <span>

#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/delta.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/moe/experts.h"
#include "ops/scan.h"
#include "ops/tape.h"

// Inside the room: what each op notes on an open tape. Each is called by its op, before it writes anything, with the
// op's own arguments.
namespace coterie::ops {

void record_matmul(Tape& tape, Precision precision, ConstMatrix x, std::span<const MatmulTarget> targets);

/// RMSNorm over pieces of `width` columns; the weight of piece p begins at p * weight_step.
struct RmsNormPieces {
  int64_t width = 0, weight_step = 0;
  const float* weight = nullptr;
  float eps = 0, offset = 0;
};
void record_rms_norm(Tape& tape, ConstMatrix x, const RmsNormPieces& pieces, Matrix y);
void record_layer_norm(Tape& tape, ConstMatrix x, const float* weight, const float* bias, float eps, Matrix y);

void record_add(Tape& tape, ConstMatrix x, Matrix y, float scale);
void record_copy(Tape& tape, ConstMatrix x, std::span<const int64_t> rows, Matrix y);
void record_scale(Tape& tape, Matrix x, float factor);
void record_softcap(Tape& tape, Matrix x, float cap);
void record_clamp(Tape& tape, Matrix x, float limit);
void record_add_gated(Tape& tape, ConstMatrix x, ConstMatrix gate, Matrix y);
void record_activate(Tape& tape, kernels::Activation activation, Matrix x);
void record_gate(Tape& tape, kernels::Activation activation, Matrix gate, ConstMatrix x);
void record_scale_heads(Tape& tape, ConstMatrix factor, Matrix x);
void record_embed(Tape& tape, std::span<const int32_t> ids, const tensor::Weight& table, Matrix y, float scale);
void record_rope(Tape& tape, const RopeTable& table, std::span<const int32_t> positions, int64_t heads, Matrix x);

void record_append_cache(Tape& tape, const CacheLayout& layout, ConstMatrix k, ConstMatrix v,
                         std::span<const Segment> segments);
void record_attention(Tape& tape, const AttentionShape& shape, ConstMatrix q, std::span<const Segment> segments,
                      Matrix out);

void record_conv(Tape& tape, const Convolution& convolution, ConstMatrix x, std::span<const Recurrence> sequences,
                 Matrix y);
void record_softplus(Tape& tape, ConstMatrix x, const float* bias, Matrix y, float low, float high);
void record_selective_scan(Tape& tape, const SelectiveScan& scan, ConstMatrix x, ConstMatrix dt,
                           const ScanInputs& inputs, std::span<const Recurrence> sequences, Matrix y);
void record_head_scan(Tape& tape, const HeadScan& scan, ConstMatrix x, ConstMatrix dt, const ScanInputs& inputs,
                      std::span<const Recurrence> sequences, Matrix y);
void record_decay(Tape& tape, const Decay& decay, ConstMatrix x, Matrix y);
void record_delta_rule(Tape& tape, const DeltaRule& rule, const DeltaInputs& inputs,
                       std::span<const Recurrence> sequences, Matrix y);

}  // namespace coterie::ops
