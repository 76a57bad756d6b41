#pragma once

#include <cstdint>
#include <span>

#include "layers/batch.h"
#include "layers/moe/router_spec.h"
#include "ops/dropout.h"
#include "ops/moe/plan.h"

namespace coterie::layers {

/// What a router did beside what observers see.
struct RouterRecord {
  std::span<const ops::DropoutRow> rows = {};  // [N] whose draws the noise is
  std::span<const int32_t> named = {};         // [N, K] whom the weights are of: those that were dropped too, -1 behind
  std::span<const int32_t> kept = {};          // [N, K] the same, -1 where it was dropped
  std::span<const float> unscaled = {};        // [N, K] weights before those of the experts (RouterSpec::expert_scale)
  const float* expert_scale = nullptr;         // [E], or null
};

/// Notes on the batch's tape the backward pass from the plan's weights to the logits, and what batch.pass.router_loss
/// adds (add_mixer_gradient when `of_mixer`). Gives the plan memory for the gradient of its weights.
void record_router(const Batch& batch, const RouterSpec& spec, bool of_mixer, const Routed& routed,
                   const RouterRecord& record, ops::RoutingPlan& plan);

}  // namespace coterie::layers
