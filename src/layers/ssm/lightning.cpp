#include "layers/ssm/lightning.h"

#include <array>
#include <cmath>

#include "layers/lora.h"
#include "layers/ssm/recurrent.h"
#include "ops/elementwise.h"
#include "ops/scan.h"

namespace coterie::layers {

namespace {

/// exp(slopes[h]) of each row and head, [N, H]. It is near 1, and the error of rounding it would add up over a long
/// text: of the two floats around it each position gets one, the upper as often as the exact value lies between them,
/// so that products of any length are right to about a rounding.
void fill_decays(const Batch& batch, std::span<const float> slopes, tensor::Matrix decays) {
  for (size_t h = 0; h < slopes.size(); ++h) {
    const double exact = std::exp(static_cast<double>(slopes[h]));
    auto below = static_cast<float>(exact);
    if (static_cast<double>(below) > exact) below = std::nextafter(below, 0.0f);
    const float above = std::nextafter(below, 2.0f);
    const double share =
        (exact - static_cast<double>(below)) / (static_cast<double>(above) - static_cast<double>(below));
    for (const SequenceRows& s : batch.sequences)
      for (int64_t r = 0; r < s.rows; ++r) {
        const auto position = static_cast<double>(s.first_position + r);
        const bool up = std::floor((position + 1) * share) > std::floor(position * share);
        decays.row(s.first_row + r)[h] = up ? above : below;
      }
  }
}

}  // namespace

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
  const tensor::Matrix decays = context.arena.matrix(n, heads);
  fill_decays(batch, decay_, decays);
  const ops::HeadScan scan{heads, d, decay_.data(), zeros_.data(), decays};
  run_recurrence(batch, layer, {0, floats, floats},
                 [&](auto sequences) { ops::head_scan(context, scan, values, steps, inputs, sequences, scanned); });
  ops::rms_norm(context, scanned, norm_.data(), spec_.norm_eps, scanned);
  ops::gate(context, ops::Activation::sigmoid, gate, scanned);
  project(batch, gate, out_, y);
}

}  // namespace coterie::layers
