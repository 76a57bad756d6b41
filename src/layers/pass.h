#pragma once

#include "layers/moe/expert_source.h"
#include "layers/moe/router_loss.h"
#include "layers/observer.h"

namespace coterie::layers {

struct LayerRange;
class StepShare;

/// How a pass goes: what is the same for all of its sequences and in every layer.
struct PassOptions {
  Observer* observer = nullptr;
  // Where routed experts come from; null: from the weights that are bound.
  ExpertSource* experts = nullptr;
  // Other ranks that evaluate the other rows of this step; null: all are here.
  StepShare* share = nullptr;
  // Which layers are computed here (layer_range.h); null: all.
  const LayerRange* layers = nullptr;
  // A step of training: routers draw their noise and jitter and keep to their capacity.
  bool training = false;
  // In training: the share of what each mixer and FFN gives that is dropped before it is added to the residual stream,
  // keyed by SequenceStep::random_key, position and layer; and the same of the values inside each routed expert
  // (ops/moe/experts.h).
  float dropout = 0;
  float expert_dropout = 0;
  // Under a tape: a loss of the routers' whose gradient is added, and what the sum of the rows' losses is multiplied by
  // before its gradient is taken (1 / the number of targets of the whole batch for their mean).
  const RouterLoss* router_loss = nullptr;
  double gradient_weight = 1;
  // Under a tape: keep what goes into each block alone, and run the block once more in the backward pass.
  bool recompute = false;
  // forward() returns the rows after the final norm, [rows, D], instead of their logits [rows, V].
  bool hidden = false;
};

}  // namespace coterie::layers
