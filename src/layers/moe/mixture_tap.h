#pragma once

#include <cstdint>
#include <span>

#include "layers/sequence_state.h"
#include "tensor/view.h"

namespace coterie::layers {

/// What a Soft MoE has made of a batch instead of a choice (routers/soft.h).
struct Mixture {
  int64_t layer = 0, experts = 0;
  // [N, E slots], an expert's slots side by side. Their softmax over a sequence's tokens says what a slot reads, that
  // over the slots what a token gets of each slot's output.
  tensor::ConstMatrix logits;
  std::span<const SequenceRows> sequences;
};

/// What a Tap is besides when it wants to hear of mixtures too: they have no plan and no choices, so `routed` is not
/// called for them.
class MixtureTap {
 public:
  virtual ~MixtureTap() = default;
  virtual void mixed(const Mixture& mixture) = 0;
};

}  // namespace coterie::layers
