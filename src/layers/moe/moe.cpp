#include "layers/moe/moe.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "layers/lora.h"
#include "ops/elementwise.h"
#include "ops/jitter.h"
#include "ops/matmul.h"
#include "ops/moe/slots.h"

namespace coterie::layers {

Moe::Moe(const MoeSpec& spec, int64_t width)
    : spec_(spec), width_(width), experts_(spec, spec.latent > 0 ? spec.latent : width) {
  if (spec.router.selection == RouterSpec::Selection::soft)
    soft_.emplace(spec.router, width);
  else
    router_.emplace(spec.router, width);
  if (spec.shared_hidden > 0)
    shared_.emplace(DenseFfnSpec{spec.shared_hidden, spec.activation, spec.gated, spec.shared_bias}, width,
                    Place::shared_experts);
}

void Moe::visit(TensorVisitor& visitor, const std::string& path) {
  if (router_) router_->visit(visitor, path + ".router");
  if (soft_) soft_->visit(visitor, path + ".router");
  if (spec_.latent > 0)
    visitor.adaptable(path + ".latent_in", Place::shared_experts, spec_.latent, width_, false, latent_in_);
  experts_.visit(visitor, path + ".experts");
  if (spec_.latent > 0)
    visitor.adaptable(path + ".latent_out", Place::shared_experts, width_, spec_.latent, false, latent_out_);
  if (shared_) shared_->visit(visitor, path + ".shared");
  if (shared_ && spec_.shared_gate)
    visitor.matrix({path + ".shared_gate", Place::shared_experts}, 1, width_, shared_gate_);
  if (spec_.output_bias) visitor.vector({path + ".bias", Place::shared_experts}, width_, bias_);
}

namespace {
// Places of expert dropout's draws, one for each expert, apart from those of blocks and adapters (ops/dropout.h).
constexpr uint64_t kExpertPlaces = uint64_t{1} << 31, kPlacesOfALayer = 1 << 16;
/// What tokens are to the experts when each slot has a row of its own, read with weight 1.
ops::RoutingPlan by_slot(const ops::RoutingPlan& plan) {
  std::vector<int32_t> ids(static_cast<size_t>(plan.slots()));
  for (int64_t e = 0; e < plan.experts(); ++e)
    std::fill(ids.begin() + plan.expert_offset[static_cast<size_t>(e)],
              ids.begin() + plan.expert_offset[static_cast<size_t>(e) + 1], static_cast<int32_t>(e));
  return ops::make_plan(ids, std::vector<float>(ids.size(), 1.0f), std::ssize(ids), 1, plan.experts());
}

}  // namespace

// What a token's weights multiply is x, a row for each slot; the outputs are added up as they are.
void Moe::forward_scaled(const Batch& batch, tensor::ConstMatrix x, const ops::RoutingPlan& plan, Run run,
                         tensor::Matrix y) const {
  ops::Context& context = batch.context;
  if (batch.pass.expert_dropout > 0 && batch.pass.training)
    base::fail(base::ErrorKind::unsupported, "expert_dropout", "experts that read weighted inputs have none");
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix inputs = context.arena.matrix(plan.slots(), x.cols);
  const tensor::Matrix outputs = context.arena.matrix(plan.slots(), y.cols);
  ops::to_slots(context, x, plan, ops::ByWeight::yes, inputs);
  run(inputs, by_slot(plan), outputs);
  ops::from_slots(context, outputs, plan, ops::ByWeight::no, y);
}

void Moe::forward_soft(const Batch& batch, int64_t layer, tensor::ConstMatrix x, Run run, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  for (const SequenceRows& s : batch.sequences)
    if (s.step.routers)
      base::fail(base::ErrorKind::unsupported, "moe",
                 "a Soft MoE sends no token to an expert: there is no choice to "
                 "change");
  const SoftRouter::Mixed mixed = soft_->to_slots(batch, x);
  if (batch.pass.observer)
    batch.pass.observer->mixed(
        {.layer = layer, .experts = spec_.router.experts, .logits = mixed.logits, .sequences = batch.sequences});
  const tensor::Matrix outputs = context.arena.matrix(mixed.x.rows, mixed.x.cols);
  base::require(batch.pass.expert_dropout == 0 || !batch.pass.training, "moe", "soft mixtures have no expert dropout");
  run(mixed.x, mixed.plan, outputs);
  soft_->to_tokens(batch, mixed, outputs, y);
}

void Moe::forward_routed(const Batch& batch, tensor::ConstMatrix x, const ops::RoutingPlan& plan, Run run,
                         tensor::Matrix y) const {
  ops::Context& context = batch.context;
  if (spec_.scale_inputs) return forward_scaled(batch, x, plan, run, y);
  if (spec_.latent == 0) return run(x, plan, y);
  const tensor::Matrix in = context.arena.matrix(x.rows, spec_.latent);
  const tensor::Matrix out = context.arena.matrix(x.rows, spec_.latent);
  project(batch, x, latent_in_, in);
  run(in, plan, out);
  project(batch, out, latent_out_, y);
}

void Moe::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope input(context.arena);
  if (spec_.jitter > 0 && (batch.pass.training || spec_.router.always.jitter)) {
    const tensor::Matrix shaken = context.arena.matrix(x.rows, x.cols);
    ops::jitter(context, x, spec_.jitter, name_rows(batch), static_cast<uint64_t>(2 * layer + 1), shaken);
    x = shaken;
  }
  if (batch.pass.experts && batch.pass.training)
    base::fail(base::ErrorKind::unsupported, "moe",
               "experts that come from elsewhere serve inference; this is a step of training");
  // The shared expert reads nothing of the others: where these come from elsewhere it is computed meanwhile.
  tensor::Matrix s;
  if (shared_ && batch.pass.experts) s = context.arena.matrix(x.rows, x.cols);
  ops::ExpertDropout dropped;
  const auto run = [&](tensor::ConstMatrix in, const ops::RoutingPlan& plan, tensor::Matrix out) {
    if (!batch.pass.experts) return experts_.forward(context, in, plan, out, dropped);
    experts_.forward(context, layer, in, plan, *batch.pass.experts, out, [&] {
      if (shared_) shared_->forward(batch, x, s);
    });
  };
  if (soft_) {
    forward_soft(batch, layer, x, run, y);
  } else {
    if (batch.pass.expert_dropout > 0 && batch.pass.training)
      dropped = {batch.pass.expert_dropout, name_rows(batch),
                 kExpertPlaces + static_cast<uint64_t>(layer) * kPlacesOfALayer};
    const ops::RoutingPlan plan = router_->forward(batch, layer, x);
    forward_routed(batch, x, plan, run, y);
  }
  if (spec_.output_bias) ops::add_to_rows(context, bias_.data(), y);
  if (!shared_) return;

  const tensor::ArenaScope scratch(context.arena);
  if (!s.data) {
    s = context.arena.matrix(x.rows, x.cols);
    shared_->forward(batch, x, s);
  }
  if (spec_.shared_gate) {
    const tensor::Matrix gate = context.arena.matrix(x.rows, 1);
    ops::matmul(context, x, shared_gate_, nullptr, gate);
    ops::add_gated(context, s, gate, y);
  } else {
    ops::add(context, s, y);
  }
}

}  // namespace coterie::layers
