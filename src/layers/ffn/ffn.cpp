#include "layers/ffn/ffn.h"

#include "ops/matmul.h"

namespace coterie::layers {

void DenseFfn::visit(TensorVisitor& visitor, const std::string& path) {
  if (spec_.gated) visitor.linear(path + ".gate", place_, spec_.hidden, width_, spec_.bias, gate_);
  visitor.linear(path + ".up", place_, spec_.hidden, width_, spec_.bias, up_);
  visitor.linear(path + ".down", place_, width_, spec_.hidden, spec_.bias, down_);
}

void DenseFfn::forward(ops::Context& context, tensor::ConstMatrix x, tensor::Matrix y) const {
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix h = context.arena.matrix(x.rows, spec_.hidden);
  ops::RoutingPlan storage;
  const ops::RoutingPlan& everyone = ops::dense_plan(x.rows, storage);
  const ops::ExpertInput in{gate_.weight, up_.weight, gate_.bias.data(), up_.bias.data()};
  const ops::ExpertOutput out{down_.weight, down_.bias.data()};
  ops::grouped_gated_matmul(context, x, everyone, {&in, 1}, spec_.activation, h);
  ops::grouped_down_combine(context, h, everyone, {&out, 1}, y);
}

}  // namespace coterie::layers
