#include "layers/ffn/ffn.h"

#include "ops/experts.h"

namespace coterie::layers {

void DenseFfn::visit(TensorVisitor& visitor, const std::string& path) {
  if (spec_.gated) visitor.linear(path + ".gate", place_, spec_.hidden, width_, spec_.bias, gate_);
  visitor.linear(path + ".up", place_, spec_.hidden, width_, spec_.bias, up_);
  visitor.linear(path + ".down", place_, width_, spec_.hidden, spec_.bias, down_);
}

void DenseFfn::forward(ops::Context& context, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::RoutingPlan storage;
  const ops::RoutingPlan& everyone = ops::dense_plan(x.rows, storage);
  const ops::ExpertInput in{gate_.weight, up_.weight, gate_.bias.data(), up_.bias.data()};
  const ops::ExpertOutput out{down_.weight, down_.bias.data()};
  ops::experts(context, x, everyone, {&in, 1}, {&out, 1}, spec_.activation, spec_.hidden, y);
}

}  // namespace coterie::layers
