#include "layers/moe/moe.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "layers/lora.h"
#include "layers/moe/expert_computer.h"
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
    shared_.emplace(DenseFfnSpec{spec.shared_hidden, spec.activation, spec.gated, spec.shared_bias, spec.shared_clamp},
                    width, Place::shared_experts);
  const auto norm = [width](const std::optional<NormSpec>& of, std::optional<Norm>& into) {
    if (of) into.emplace(*of, width);
  };
  norm(spec.shared_norm, shared_norm_), norm(spec.shared_post_norm, shared_post_norm_);
  norm(spec.experts_norm, experts_norm_), norm(spec.experts_post_norm, experts_post_norm_);
}

void Moe::visit(TensorVisitor& visitor, const std::string& path) {
  if (router_) router_->visit(visitor, path + ".router");
  if (soft_) soft_->visit(visitor, path + ".router");
  // Nemotron 3's mlp_bias is of all projections but those of the routed experts.
  if (spec_.latent > 0)
    visitor.adaptable(path + ".latent_in", Place::shared_experts, spec_.latent, width_, spec_.shared_bias, latent_in_);
  experts_.visit(visitor, path + ".experts");
  if (spec_.latent > 0)
    visitor.adaptable(path + ".latent_out", Place::shared_experts, width_, spec_.latent, spec_.shared_bias,
                      latent_out_);
  if (shared_) shared_->visit(visitor, path + ".shared");
  if (shared_ && spec_.shared_gate)
    visitor.matrix({path + ".shared_gate", Place::shared_experts}, 1, width_, shared_gate_);
  if (shared_norm_) shared_norm_->visit(visitor, path + ".shared_norm");
  if (shared_post_norm_) shared_post_norm_->visit(visitor, path + ".shared_post_norm");
  if (experts_norm_) experts_norm_->visit(visitor, path + ".experts_norm");
  if (experts_post_norm_) experts_post_norm_->visit(visitor, path + ".experts_post_norm");
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
  if (experts_norm_) {
    const tensor::Matrix normed = context.arena.matrix(x.rows, x.cols);
    experts_norm_->forward(context, x, normed);
    x = normed;
  }
  if (spec_.scale_inputs) {
    forward_scaled(batch, x, plan, run, y);
  } else if (spec_.latent > 0) {
    const tensor::Matrix in = context.arena.matrix(x.rows, spec_.latent);
    const tensor::Matrix out = context.arena.matrix(x.rows, spec_.latent);
    project(batch, x, latent_in_, in);
    run(in, plan, out);
    project(batch, out, latent_out_, y);
  } else if (spec_.identity_experts > 0) {
    const ops::RoutingPlan with_weights = ops::of_first_experts(plan, spec_.experts_with_weights());
    run(x, with_weights, y);
    ops::add_identity(context, x, plan, with_weights.slots(), y);
  } else {
    run(x, plan, y);
  }
}

void Moe::forward_shared(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix s) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  tensor::ConstMatrix in = x;
  if (shared_norm_) {
    const tensor::Matrix normed = context.arena.matrix(x.rows, x.cols);
    shared_norm_->forward(context, x, normed);
    in = normed;
  }
  shared_->forward(batch, in, s);
  if (shared_post_norm_) shared_post_norm_->forward(context, s, s);
}

void Moe::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope input(context.arena);
  if (spec_.jitter > 0 && (batch.pass.training || spec_.router.always.jitter)) {
    const tensor::Matrix shaken = context.arena.matrix(x.rows, x.cols);
    ops::jitter(context, x, spec_.jitter, name_rows(batch), static_cast<uint64_t>(2 * layer + 1), shaken);
    x = shaken;
  }
  const bool computes = computer(batch.pass.experts) != nullptr;
  if (batch.pass.experts && batch.pass.training && !computes)
    base::fail(base::ErrorKind::unsupported, "moe",
               "experts that come from elsewhere serve inference; this is a step of training");
  base::require(!spec_.shortcut || batch.shortcut.data, "moe", "a shortcut without memory for it");
  const tensor::Matrix routed = spec_.shortcut ? batch.shortcut : y;
  const auto shared_output = [&] { return spec_.shortcut ? y : context.arena.matrix(x.rows, x.cols); };
  // The shared expert reads nothing of the others: where these come from elsewhere it is computed meanwhile. Not in
  // training: in the backward pass it must add to what it reads when it does on one machine.
  tensor::Matrix s;
  if (shared_ && batch.pass.experts && !computes) s = shared_output();
  ops::ExpertDropout dropped;
  const auto run = [&](tensor::ConstMatrix in, const ops::RoutingPlan& plan, tensor::Matrix out) {
    if (!batch.pass.experts) return experts_.forward(context, in, plan, out, dropped);
    experts_.forward(context, layer, in, plan, *batch.pass.experts, out, dropped, [&] {
      if (shared_) forward_shared(batch, x, s);
    });
  };
  if (soft_) {
    forward_soft(batch, layer, x, run, routed);
  } else {
    if (batch.pass.expert_dropout > 0 && batch.pass.training)
      dropped = {batch.pass.expert_dropout, name_rows(batch),
                 kExpertPlaces + static_cast<uint64_t>(layer) * kPlacesOfALayer};
    const ops::RoutingPlan plan = router_->forward(batch, layer, x);
    forward_routed(batch, x, plan, run, routed);
  }
  if (experts_post_norm_) experts_post_norm_->forward(context, routed, routed);
  if (spec_.output_bias) ops::add_to_rows(context, bias_.data(), routed);
  if (!shared_) return;

  const tensor::ArenaScope scratch(context.arena);
  if (!s.data) {
    s = shared_output();
    forward_shared(batch, x, s);
  }
  if (spec_.shortcut) return;  // s is y
  if (spec_.shared_gate) {
    const tensor::Matrix gate = context.arena.matrix(x.rows, 1);
    ops::matmul(context, x, shared_gate_, nullptr, gate);
    ops::add_gated(context, s, gate, y);
  } else {
    ops::add(context, s, y);
  }
}

}  // namespace coterie::layers
