#include "layers/ssm/short_conv.h"

#include "layers/lora.h"
#include "layers/ssm/recurrent.h"
#include "ops/elementwise.h"

namespace coterie::layers {

void ShortConv::visit(TensorVisitor& visitor, const std::string& path) {
  visitor.adaptable(path + ".in", Place::mixer, 3 * width_, width_, spec_.bias, in_);
  visitor.table({path + ".conv", Place::mixer}, width_, spec_.conv_width, taps_);
  if (spec_.bias) visitor.vector({path + ".conv.bias", Place::mixer}, width_, conv_bias_);
  visitor.adaptable(path + ".out", Place::mixer, width_, width_, spec_.bias, out_);
}

void ShortConv::arrange() { taps_by_channel_ = transposed(taps_.data(), width_, spec_.conv_width); }

void ShortConv::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  if (context.tape) record_derived(*context.tape, taps_, width_, spec_.conv_width, taps_by_channel_.data(), false);
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix bcu = context.arena.matrix(x.rows, 3 * width_), mixed = context.arena.matrix(x.rows, width_);
  project(batch, x, in_, bcu);
  const tensor::Matrix b = bcu.col_range(0, width_), c = bcu.col_range(width_, 2 * width_);
  ops::gate(context, ops::Activation::identity, b, bcu.col_range(2 * width_, 3 * width_));
  const ops::Convolution convolution{spec_.conv_width, taps_by_channel_.data(), conv_bias_.data(),
                                     ops::Activation::identity};
  const int64_t floats = state_floats(spec_, width_);
  run_recurrence(batch, layer, {0, floats, floats},
                 [&](auto sequences) { ops::causal_conv1d(context, convolution, b, sequences, mixed); });
  ops::gate(context, ops::Activation::identity, c, mixed);
  project(batch, c, out_, y);
}

}  // namespace coterie::layers
