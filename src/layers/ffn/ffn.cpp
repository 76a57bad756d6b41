#include "layers/ffn/ffn.h"

#include <array>

#include "layers/lora.h"
#include "ops/elementwise.h"
#include "ops/moe/experts.h"

namespace coterie::layers {

void DenseFfn::visit(TensorVisitor& visitor, const std::string& path) {
  if (spec_.gated) visitor.adaptable(path + ".gate", place_, spec_.hidden, width_, spec_.bias, gate_);
  visitor.adaptable(path + ".up", place_, spec_.hidden, width_, spec_.bias, up_);
  visitor.adaptable(path + ".down", place_, width_, spec_.hidden, spec_.bias, down_);
}

void DenseFfn::forward(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix y) const {
  for (const Linear* linear : {&gate_, &up_, &down_})
    if (linear->lora && (linear->lora.magnitude || (linear->lora.dropout > 0 && batch.pass.training)))
      return forward_apart(batch, x, y);
  ops::RoutingPlan storage;
  const ops::RoutingPlan& everyone = ops::dense_plan(x.rows, storage);
  const ops::ExpertInput in{gate_.weight,    up_.weight,          gate_.bias.data(),
                            up_.bias.data(), gate_.lora.low_rank, up_.lora.low_rank};
  const ops::ExpertOutput out{down_.weight, down_.bias.data(), down_.lora.low_rank};
  const ops::GateRule rule = ops::GateRule::clamped_by(spec_.activation, spec_.clamp);
  ops::experts(batch.context, x, everyone, {&in, 1}, {&out, 1}, rule, spec_.hidden, y);
}

void DenseFfn::forward_apart(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix h = context.arena.matrix(x.rows, spec_.hidden);
  if (spec_.gated) {
    const tensor::Matrix up = context.arena.matrix(x.rows, spec_.hidden);
    const std::array<Projection, 2> both = {{{gate_, h}, {up_, up}}};
    project_each(batch, x, both);
    if (spec_.clamp > 0) {
      // Activations do not fall as far below zero as any limit (models/spec.cpp), so this is min(act(gate), limit).
      ops::activate(context, spec_.activation, h);
      for (const tensor::Matrix& half : {h, up}) ops::clamp(context, half, spec_.clamp);
      ops::gate(context, ops::Activation::identity, h, up);
    } else {
      ops::gate(context, spec_.activation, h, up);
    }
  } else {
    project(batch, x, up_, h);
    ops::activate(context, spec_.activation, h);
  }
  project(batch, h, down_, y);
}

}  // namespace coterie::layers
