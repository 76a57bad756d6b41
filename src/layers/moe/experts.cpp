#include "layers/moe/experts.h"

#include "base/error.h"

namespace coterie::layers {

void Experts::visit(TensorVisitor& visitor, const std::string& path) {
  const int64_t e = spec_.router.experts;
  if (spec_.gated) visitor.stack({path + ".gate", Place::experts}, e, spec_.hidden, width_, gate_);
  visitor.stack({path + ".up", Place::experts}, e, spec_.hidden, width_, up_);
  visitor.stack({path + ".down", Place::experts}, e, width_, spec_.hidden, down_);
}

void Experts::arrange() {
  const auto e = static_cast<size_t>(spec_.router.experts);
  base::require(up_.size() == e && down_.size() == e, "experts", "{} experts were bound, {} expected", up_.size(), e);
  inputs_.resize(e), outputs_.resize(e);
  for (size_t i = 0; i < e; ++i) {
    if (spec_.gated) inputs_[i].gate = gate_[i];
    inputs_[i].up = up_[i];
    outputs_[i].down = down_[i];
  }
}

void Experts::forward(ops::Context& context, tensor::ConstMatrix x, const ops::RoutingPlan& plan,
                      tensor::Matrix y) const {
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix h = context.arena.matrix(plan.slots(), spec_.hidden);
  ops::grouped_gated_matmul(context, x, plan, inputs_, spec_.activation, h);
  ops::grouped_down_combine(context, h, plan, outputs_, y);
}

}  // namespace coterie::layers
