#include "layers/ssm/mamba.h"

#include <algorithm>
#include <array>

#include "layers/lora.h"
#include "layers/ssm/recurrent.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/scan.h"

namespace coterie::layers {

void Mamba::visit(TensorVisitor& visitor, const std::string& path) {
  const int64_t channels = spec_.inner, r = spec_.dt_rank, s = spec_.states;
  visitor.adaptable(path + ".in", Place::mixer, channels, width_, spec_.projection_bias, in_);
  visitor.adaptable(path + ".gate", Place::mixer, channels, width_, spec_.projection_bias, gate_);
  visitor.table({path + ".conv", Place::mixer}, channels, spec_.conv_width, taps_);
  if (spec_.conv_bias) visitor.vector({path + ".conv.bias", Place::mixer}, channels, conv_bias_);
  const auto by_head = [&](const char* name) {
    return ListedTensor{.path = path + name, .place = Place::mixer, .parts = spec_.heads};
  };
  visitor.matrix(by_head(".select"), spec_.heads * (r + 2 * s), channels / spec_.heads, select_);
  visitor.matrix(by_head(".dt"), channels, r, dt_);
  visitor.vector(by_head(".dt.bias"), channels, dt_bias_);
  if (spec_.inner_norm == MambaSpec::InnerNorm::weighted) {
    visitor.vector({path + ".dt_norm", Place::norms}, r, dt_norm_);
    visitor.vector({path + ".b_norm", Place::norms}, s, b_norm_);
    visitor.vector({path + ".c_norm", Place::norms}, s, c_norm_);
  }
  visitor.table(by_head(".a_log"), channels, s, a_log_);
  visitor.vector(by_head(".d"), channels, d_);
  visitor.adaptable(path + ".out", Place::mixer, width_, channels, spec_.projection_bias, out_);
}

void Mamba::arrange() {
  taps_by_channel_ = transposed(taps_.data(), spec_.inner, spec_.conv_width);
  tensor::Buffer<float> a(a_log_.values.size());
  make_decay(a_log_, a.data());
  a_by_channel_ = transposed(a.data(), spec_.inner, spec_.states);
  if (spec_.inner_norm != MambaSpec::InnerNorm::plain) return;
  const std::pair<Vector*, int64_t> norms[] = {
      {&dt_norm_, spec_.dt_rank}, {&b_norm_, spec_.states}, {&c_norm_, spec_.states}};
  for (const auto& [norm, n] : norms) {
    norm->values = tensor::Buffer<float>(n);
    std::fill_n(norm->values.data(), n, 1.0f);
  }
}

Mamba::Selection Mamba::selection_of(tensor::Matrix projected, int64_t head) const {
  const int64_t r = spec_.dt_rank, s = spec_.states, at = head * (r + 2 * s);
  return {projected.col_range(at, at + r), projected.col_range(at + r, at + r + s),
          projected.col_range(at + r + s, at + r + 2 * s)};
}

void Mamba::norm_selection(ops::Context& context, const Selection& selection) const {
  if (spec_.inner_norm == MambaSpec::InnerNorm::none) return;
  ops::rms_norm(context, selection.dt, dt_norm_.data(), spec_.inner_norm_eps, selection.dt);
  ops::rms_norm(context, selection.b, b_norm_.data(), spec_.inner_norm_eps, selection.b);
  ops::rms_norm(context, selection.c, c_norm_.data(), spec_.inner_norm_eps, selection.c);
}

void Mamba::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  if (context.tape) {
    record_derived(*context.tape, taps_, spec_.inner, spec_.conv_width, taps_by_channel_.data(), false);
    record_derived(*context.tape, a_log_, spec_.inner, spec_.states, a_by_channel_.data(), true);
  }
  const tensor::ArenaScope scratch(context.arena);
  const int64_t n = batch.tokens(), channels = spec_.inner;
  const int64_t per_head = channels / spec_.heads, selected = spec_.dt_rank + 2 * spec_.states;
  const tensor::Matrix in = context.arena.matrix(n, channels), gate = context.arena.matrix(n, channels);
  const tensor::Matrix u = context.arena.matrix(n, channels), dt = context.arena.matrix(n, channels);
  const tensor::Matrix projected = context.arena.matrix(n, spec_.heads * selected);

  const std::array<Projection, 2> projections = {{{in_, in}, {gate_, gate}}};
  project_each(batch, x, projections);

  const ops::Convolution convolution{spec_.conv_width, taps_by_channel_.data(), conv_bias_.data(), spec_.activation};
  const int64_t history = (spec_.conv_width - 1) * channels, floats = state_floats(spec_);
  run_recurrence(batch, layer, {0, history, floats},
                 [&](auto sequences) { ops::causal_conv1d(context, convolution, in, sequences, u); });

  for (int64_t head = 0; head < spec_.heads; ++head) {
    const int64_t begin = head * per_head, end = begin + per_head;
    ops::matmul(context, u.col_range(begin, end), select_.row_range(head * selected, (head + 1) * selected), nullptr,
                projected.col_range(head * selected, (head + 1) * selected));
    const Selection selection = selection_of(projected, head);
    norm_selection(context, selection);
    ops::matmul(context, selection.dt, dt_.row_range(begin, end), nullptr, dt.col_range(begin, end));
  }
  ops::softplus(context, dt, dt_bias_.data(), dt);

  const tensor::Matrix scanned = in;  // the convolution has read it
  const int64_t b = spec_.dt_rank, c = b + spec_.states;
  const ops::ScanInputs inputs{projected.col_range(b, projected.cols), projected.col_range(c, projected.cols),
                               spec_.heads, selected};
  const ops::SelectiveScan scan{spec_.states, a_by_channel_.data(), d_.data()};
  run_recurrence(batch, layer, {history, floats - history, floats},
                 [&](auto sequences) { ops::selective_scan(context, scan, u, dt, inputs, sequences, scanned); });
  ops::gate(context, ops::Activation::silu, gate, scanned);
  project(batch, gate, out_, y);
}

}  // namespace coterie::layers
