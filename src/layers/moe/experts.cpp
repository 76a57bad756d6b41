#include "layers/moe/experts.h"

#include <algorithm>

#include "base/error.h"
#include "layers/moe/expert_computer.h"
#include "ops/moe/down.h"
#include "ops/moe/experts.h"
#include "ops/observer.h"

namespace coterie::layers {

std::unique_ptr<ExpertLease> ExpertComputer::lease(const ExpertCall&) {
  base::fail(base::ErrorKind::internal, "experts", "who computes experts hands none out");
}

ExpertComputer* computer(ExpertSource* source) { return dynamic_cast<ExpertComputer*>(source); }

void Experts::visit(TensorVisitor& visitor, const std::string& path) {
  const int64_t e = spec_.experts_with_weights();
  if (spec_.gated) visitor.stack({path + ".gate", Place::experts}, e, spec_.hidden, width_, gate_);
  visitor.stack({path + ".up", Place::experts}, e, spec_.hidden, width_, up_);
  visitor.stack({path + ".down", Place::experts}, e, width_, spec_.hidden, down_);
  if (spec_.gated) visitor.loras({path + ".gate", Place::experts}, e, spec_.hidden, width_, gate_low_);
  visitor.loras({path + ".up", Place::experts}, e, spec_.hidden, width_, up_low_);
  visitor.loras({path + ".down", Place::experts}, e, width_, spec_.hidden, down_low_);
  if (!spec_.bias) return;
  if (spec_.gated) visitor.vectors({path + ".gate.bias", Place::experts}, e, spec_.hidden, gate_bias_);
  visitor.vectors({path + ".up.bias", Place::experts}, e, spec_.hidden, up_bias_);
  visitor.vectors({path + ".down.bias", Place::experts}, e, width_, down_bias_);
}

void Experts::arrange() {
  const auto e = static_cast<size_t>(spec_.experts_with_weights());
  base::require(up_.size() == e && down_.size() == e, "experts", "{} experts were bound, {} expected", up_.size(), e);
  inputs_.resize(e), outputs_.resize(e);
  const auto bias = [](const Vector& biases, size_t expert, int64_t n) {
    return biases.data() ? biases.data() + static_cast<int64_t>(expert) * n : nullptr;
  };
  for (size_t i = 0; i < e; ++i) {
    inputs_[i].gate_bias = bias(gate_bias_, i, spec_.hidden), inputs_[i].up_bias = bias(up_bias_, i, spec_.hidden);
    outputs_[i].bias = bias(down_bias_, i, width_);
    if (spec_.gated) inputs_[i].gate = gate_[i];
    inputs_[i].up = up_[i];
    outputs_[i].down = down_[i];
    const auto low = [&](const std::vector<ops::LowRank>& over) { return over.empty() ? ops::LowRank() : over[i]; };
    inputs_[i].gate_low = low(gate_low_), inputs_[i].up_low = low(up_low_), outputs_[i].low = low(down_low_);
  }
}

ops::GateRule Experts::rule() const {
  if (spec_.clamp > 0) return ops::GateRule::clamped_by(spec_.activation, spec_.clamp);
  return {spec_.activation, spec_.swiglu_limit, spec_.swiglu_alpha};
}

void Experts::forward(ops::Context& context, tensor::ConstMatrix x, const ops::RoutingPlan& plan, tensor::Matrix y,
                      const ops::ExpertDropout& dropped) const {
  ops::experts(context, x, plan, inputs_, outputs_, rule(), spec_.hidden, y, dropped);
}

void Experts::forward(ops::Context& context, int64_t layer, tensor::ConstMatrix x, const ops::RoutingPlan& plan,
                      ExpertSource& source, tensor::Matrix y, const ops::ExpertDropout& dropped,
                      base::FunctionRef<void()> meanwhile) const {
  const ops::GateRule rule = this->rule();
  if (ExpertComputer* const elsewhere = computer(&source))
    return elsewhere->compute(context, {layer, plan, x, inputs_, outputs_}, {rule, spec_.hidden, dropped}, y);
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix out = context.arena.matrix(plan.slots(), width_);
  const std::unique_ptr<ExpertLease> lease = source.lease({layer, plan, x, inputs_, outputs_, spec_.gated});
  for (std::span<const int32_t> ids = lease->next(); !ids.empty(); ids = lease->next())
    ops::expert_outputs(context, x, plan, ids, lease->inputs(), lease->outputs(), rule, spec_.hidden, out);
  meanwhile();
  const std::span<const float* const> rows = lease->add_outputs(out);
  if (context.observer && context.observer->wants_outputs(outputs_)) {
    for (int64_t s = 0; s < std::ssize(rows); ++s)
      if (const float* const row = rows[static_cast<size_t>(s)]; row != out.row(s))
        std::copy_n(row, out.cols, out.row(s));
    context.observer->outputs(plan, outputs_, out);
  }
  if (rows.empty())
    ops::combine(context, plan, out, y);
  else
    ops::combine(context, plan, rows, y);
}

void Experts::outputs(ops::Context& context, const ops::FormedRows& x, const ops::RoutingPlan& plan,
                      std::span<const int32_t> ids, tensor::Matrix out) const {
  ops::expert_outputs(context, x, plan, ids, inputs_, outputs_, rule(), spec_.hidden, out);
}

}  // namespace coterie::layers
