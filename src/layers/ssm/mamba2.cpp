#include "layers/ssm/mamba2.h"

#include "layers/lora.h"
#include "layers/ssm/recurrent.h"
#include "ops/elementwise.h"
#include "ops/scan.h"

namespace coterie::layers {

void Mamba2::visit(TensorVisitor& visitor, const std::string& path) {
  const int64_t inner = spec_.inner(), conv = spec_.conv_channels(), heads = spec_.heads;
  visitor.adaptable(path + ".in", Place::mixer, inner + conv + heads, width_, spec_.projection_bias, in_);
  visitor.table({path + ".conv", Place::mixer}, conv, spec_.conv_width, taps_);
  if (spec_.conv_bias) visitor.vector({path + ".conv.bias", Place::mixer}, conv, conv_bias_);
  visitor.vector({path + ".dt.bias", Place::mixer}, heads, dt_bias_);
  visitor.vector({path + ".a_log", Place::mixer}, heads, a_log_);
  visitor.vector({path + ".d", Place::mixer}, heads, d_);
  visitor.vector({.path = path + ".norm", .place = Place::norms, .parts = spec_.groups}, inner, norm_);
  visitor.adaptable(path + ".out", Place::mixer, width_, inner, spec_.projection_bias, out_);
}

void Mamba2::arrange() {
  taps_by_channel_ = transposed(taps_.data(), spec_.conv_channels(), spec_.conv_width);
  a_ = tensor::Buffer<float>(spec_.heads);
  make_decay(a_log_, a_.data());
}

void Mamba2::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  if (context.tape) {
    record_derived(*context.tape, taps_, spec_.conv_channels(), spec_.conv_width, taps_by_channel_.data(), false);
    record_derived(*context.tape, a_log_, spec_.heads, 1, a_.data(), true);
  }
  const tensor::ArenaScope scratch(context.arena);
  const int64_t n = batch.tokens(), inner = spec_.inner(), conv = spec_.conv_channels();
  const int64_t shared = spec_.groups * spec_.states;
  const tensor::Matrix projected = context.arena.matrix(n, inner + conv + spec_.heads);
  project(batch, x, in_, projected);
  const tensor::Matrix gate = projected.col_range(0, inner), dt = projected.col_range(inner + conv, projected.cols);

  const tensor::Matrix xbc = context.arena.matrix(n, conv);
  const ops::Convolution convolution{spec_.conv_width, taps_by_channel_.data(), conv_bias_.data(), spec_.activation};
  const int64_t history = (spec_.conv_width - 1) * conv, floats = state_floats(spec_);
  run_recurrence(batch, layer, {0, history, floats}, [&](auto sequences) {
    ops::causal_conv1d(context, convolution, projected.col_range(inner, inner + conv), sequences, xbc);
  });

  ops::softplus(context, dt, dt_bias_.data(), dt, spec_.dt_min, spec_.dt_max);
  const ops::ScanInputs inputs{xbc.col_range(inner, inner + shared), xbc.col_range(inner + shared, conv), spec_.groups,
                               spec_.states};
  const tensor::Matrix scanned = context.arena.matrix(n, inner);
  const ops::HeadScan scan{spec_.heads, spec_.states, a_.data(), d_.data()};
  run_recurrence(batch, layer, {history, floats - history, floats}, [&](auto sequences) {
    ops::head_scan(context, scan, xbc.col_range(0, inner), dt, inputs, sequences, scanned);
  });
  ops::gate(context, ops::Activation::silu, gate, scanned);
  ops::rms_norm_groups(context, gate, spec_.groups, norm_.data(), spec_.norm_eps, scanned);
  project(batch, scanned, out_, y);
}

}  // namespace coterie::layers
