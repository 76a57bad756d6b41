#include "layers/moe/router_gradient.h"

#include <algorithm>
#include <vector>

#include "layers/moe/noise.h"
#include "layers/moe/router_loss.h"
#include "layers/moe/routers/kind.h"
#include "ops/tape.h"

namespace coterie::layers {

namespace {

template <typename T>
std::span<const T> saved(ops::Tape& tape, std::span<const T> values) {
  return {values.empty() ? nullptr : tape.save(values), values.size()};
}

/// dlogits [N, E] += what the gradient by the plan's weights is by the logits that decided.
void weights_back(const RouterSpec& spec, tensor::ConstMatrix logits, const ops::RoutingPlan& plan,
                  const RouterRecord& record, threads::Pool& pool, tensor::Matrix dlogits) {
  const RouterKind& kind = kind_of(spec.selection);
  const int64_t choices = choices_per_token(spec);
  pool.split(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<double> dweights(static_cast<size_t>(choices));
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* const named = record.named.data() + t * choices;
      const int32_t* const kept = record.kept.data() + t * choices;
      const auto count = static_cast<size_t>(std::find(named, named + choices, -1) - named);
      int64_t next = plan.token_offset[static_cast<size_t>(t)];  // a token's slots are in the order of what was kept
      for (size_t i = 0; i < count; ++i)
        dweights[i] =
            kept[i] < 0 ? 0
                        : static_cast<double>(
                              plan.weight_gradient[static_cast<size_t>(plan.token_slot[static_cast<size_t>(next++)])]);
      kind.weigh_backward(spec, logits.row(t), {named, count}, dweights.data(), dlogits.row(t));
    }
  });
}

/// The gradient by the weights before they were multiplied by the experts' own, in the place of that by the plan's;
/// dscale [E] += that by those of the experts, null where they are frozen.
void scales_back(const ops::RoutingPlan& plan, const RouterRecord& record, int64_t choices, float* dscale) {
  for (int64_t t = 0; t < plan.tokens; ++t) {
    int64_t next = plan.token_offset[static_cast<size_t>(t)];
    for (int64_t i = t * choices; i < (t + 1) * choices; ++i) {
      const int32_t expert = record.kept[static_cast<size_t>(i)];
      if (expert < 0) continue;
      float& gradient = plan.weight_gradient[static_cast<size_t>(plan.token_slot[static_cast<size_t>(next++)])];
      if (dscale) dscale[expert] += gradient * record.unscaled[static_cast<size_t>(i)];
      gradient *= record.expert_scale[expert];
    }
  }
}

}  // namespace

void record_router(const Batch& batch, const RouterSpec& spec, bool of_mixer, const Routed& routed,
                   const RouterRecord& record, ops::RoutingPlan& plan) {
  ops::Tape& tape = *batch.context.tape;
  plan.weight_gradient = tape.keep(1, plan.slots()).data;
  std::fill_n(plan.weight_gradient, plan.slots(), 0.0f);
  const bool noises = routed.noise.rows > 0;
  // What lies in the arena will be overwritten; the plan's memory is its own.
  struct Kept {
    int64_t layer;
    ops::RoutingPlan plan;
    tensor::ConstMatrix logits, noise, noisy;
    std::span<const int32_t> chosen;
    std::span<const SequenceRows> sequences;
    RouterRecord record;
  };
  const auto copy = [&](tensor::ConstMatrix x) { return x.rows > 0 ? tape.save(x) : x; };
  const Kept kept = {routed.layer,
                     plan,
                     copy(routed.logits),
                     copy(routed.noise),
                     copy(routed.noisy),
                     saved(tape, routed.chosen),
                     saved(tape, routed.sequences),
                     {saved(tape, record.rows), saved(tape, record.named), saved(tape, record.kept),
                      saved(tape, record.unscaled), record.expert_scale}};
  tape.record({}, [spec, kept, noises, of_mixer, logits = routed.logits, noise = routed.noise,
                   losses = batch.pass.router_loss](ops::Reverse& back) {
    const tensor::Matrix dlogits = back.gradient(logits);
    tensor::Matrix dnoise, dnoisy;  // without noise the logits decided themselves
    if (noises) {
      dnoise = back.gradient(noise), dnoisy = back.context().arena.matrix(logits.rows, logits.cols);
      std::fill_n(dnoisy.data, dnoisy.rows * dnoisy.cols, 0.0f);
    }
    if (losses) {
      const Routed router = {.layer = kept.layer,
                             .plan = kept.plan,
                             .logits = kept.logits,
                             .chosen = kept.chosen,
                             .sequences = kept.sequences,
                             .noise = kept.noise,
                             .noisy = kept.noisy};
      const RoutedGradient gradient = {
          .logits = dlogits, .weights = kept.plan.weight_gradient, .noise = dnoise, .noisy = dnoisy};
      of_mixer ? losses->add_mixer_gradient(router, gradient) : losses->add_gradient(router, gradient);
    }
    if (kept.record.expert_scale)
      scales_back(kept.plan, kept.record, choices_per_token(spec), back.gradient(kept.record.expert_scale));
    weights_back(spec, noises ? kept.noisy : kept.logits, kept.plan, kept.record, back.context().pool,
                 noises ? dnoisy : dlogits);
    if (noises) add_noise_backward(kept.noise, kept.record.rows, kept.layer, dnoisy, dlogits, dnoise);
  });
}

}  // namespace coterie::layers
