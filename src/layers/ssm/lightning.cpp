#include "layers/ssm/lightning.h"

#include <array>
#include <cmath>

#include "layers/lora.h"
#include "layers/ssm/recurrent.h"
#include "ops/elementwise.h"
#include "ops/scan.h"

namespace coterie::layers {

Lightning::Lightning(const LightningSpec& spec, int64_t width) : spec_(spec), width_(width) {
  const auto base = std::exp2(-8 / static_cast<double>(spec.heads));
  for (int64_t h = 0; h < spec.heads; ++h)
    decay_.push_back(static_cast<float>(-std::pow(base, static_cast<double>(h + 1)) * static_cast<double>(spec.slope)));
  zeros_.assign(decay_.size(), 0.0f);
}

void Lightning::visit(TensorVisitor& visitor, const std::string& path) {
  visitor.adaptable(path + ".qkv", Place::mixer, 3 * spec_.width(), width_, false, qkv_);
  visitor.adaptable(path + ".gate", Place::mixer, spec_.width(), width_, false, gate_);
  visitor.vector({path + ".norm", Place::norms}, spec_.width(), norm_);
  visitor.adaptable(path + ".out", Place::mixer, width_, spec_.width(), false, out_);
}

void Lightning::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const int64_t n = batch.tokens(), d = spec_.head_dim, heads = spec_.heads, width = spec_.width();
  const tensor::Matrix qkv = context.arena.matrix(n, 3 * width), gate = context.arena.matrix(n, width);
  const std::array<Projection, 2> projections = {{{qkv_, qkv}, {gate_, gate}}};
  project_each(batch, x, projections);
  ops::activate(context, spec_.activation, qkv);

  const tensor::Matrix values = context.arena.matrix(n, width), steps = context.arena.matrix(n, heads);
  for (int64_t h = 0; h < heads; ++h)
    ops::copy(context, qkv.col_range((3 * h + 2) * d, (3 * h + 3) * d), values.col_range(h * d, (h + 1) * d));
  ops::fill(context, steps, 1);
  const ops::ScanInputs inputs{qkv.col_range(d, qkv.cols), qkv, heads, 3 * d};
  const tensor::Matrix scanned = context.arena.matrix(n, width);
  const int64_t floats = state_floats(spec_);
  run_recurrence(batch, layer, {0, floats, floats}, [&](auto sequences) {
    ops::head_scan(context, {heads, d, decay_.data(), zeros_.data()}, values, steps, inputs, sequences, scanned);
  });
  ops::rms_norm(context, scanned, norm_.data(), spec_.norm_eps, scanned);
  ops::gate(context, ops::Activation::sigmoid, gate, scanned);
  project(batch, gate, out_, y);
}

}  // namespace coterie::layers
