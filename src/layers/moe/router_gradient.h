#pragma once

#include <cstdint>
#include <span>

#include "layers/batch.h"
#include "layers/moe/router_spec.h"
#include "ops/plan.h"
#include "tensor/view.h"

namespace coterie::layers {

/// The way back through choose(): from the gradient by the K weights of a token to that by its logits, to which it is
/// added. ids: whom choose() chose; the choice itself has no gradient. All in f64 but what is added.
void choose_backward(const RouterSpec& spec, const float* logits, std::span<const int32_t> ids, const double* dweights,
                     float* dlogits);

/// Notes on the batch's tape how to go back from the plan's weights to the logits, and what batch.router_loss adds.
/// Gives the plan memory for the gradient of its weights.
void record_router(const Batch& batch, const RouterSpec& spec, const Routed& routed, ops::RoutingPlan& plan);

}  // namespace coterie::layers
