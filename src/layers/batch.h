#pragma once

#include <cstdint>
#include <span>

#include "layers/moe/router_loss.h"
#include "layers/sequence_state.h"
#include "layers/tap.h"
#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::layers {

/// The rows of one sequence in a batch: its tokens at positions first_position … first_position + rows - 1.
struct SequenceRows {
  SequenceState* state = nullptr;
  int64_t first_row = 0, rows = 0;
  int64_t first_position = 0;
  // Positions the sequence is known to reach: at least first_position + rows. Only scalings of the rotary embedding
  // that depend on the length look at it (dynamic).
  int64_t length = 0;
  uint64_t random_key = 0;  // of draws a router makes for this sequence
};

/// A batch on its way through the blocks: N tokens, the rows of every sequence together.
struct Batch {
  ops::Context& context;
  std::span<const int32_t> positions;  // [N]
  std::span<const SequenceRows> sequences;
  Tap* tap = nullptr;
  // Of what a mixer and a feed-forward network give, before it is added to the residual stream; 0 outside of training.
  float dropout = 0;
  const RouterLoss* router_loss = nullptr;  // whose gradient routers add to their own, under a tape
  // The embedded tokens [N, D] as the first block got them, for models whose shared blocks read them again (Zamba).
  tensor::ConstMatrix embedded = {};

  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

}  // namespace coterie::layers
