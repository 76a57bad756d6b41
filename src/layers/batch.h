#pragma once

#include <cstdint>
#include <span>

#include "layers/moe/router_loss.h"
#include "layers/sequence_state.h"
#include "layers/tap.h"
#include "ops/context.h"
#include "ops/dropout.h"
#include "tensor/view.h"

namespace coterie::layers {

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
  std::span<const int32_t> ids = {};  // [N]; for routers that go by the token itself (hash layers)
  // Of the values inside each routed expert (ops/experts.h), in training.
  float expert_dropout = 0;
  // A step of training: routers draw their noise and jitter and keep to their capacity.
  bool training = false;

  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

/// Whose row each is, for random draws: [N], in the context's arena.
inline std::span<const ops::DropoutRow> name_rows(const Batch& batch) {
  auto* const rows = batch.context.arena.take<ops::DropoutRow>(batch.tokens());
  for (const SequenceRows& s : batch.sequences)
    for (int64_t r = s.first_row; r < s.first_row + s.rows; ++r)
      rows[r] = {s.random_key, batch.positions[static_cast<size_t>(r)]};
  return {rows, static_cast<size_t>(batch.tokens())};
}

}  // namespace coterie::layers
