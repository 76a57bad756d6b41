#pragma once

#include <cstdint>
#include <span>

#include "layers/pass.h"
#include "layers/sequence_state.h"
#include "ops/context.h"
#include "ops/dropout.h"
#include "tensor/view.h"

namespace coterie::layers {

struct Selections;

/// A batch on its way through the blocks: N tokens, the rows of every sequence together.
struct Batch {
  ops::Context& context;
  std::span<const int32_t> positions;  // [N]
  std::span<const SequenceRows> sequences;
  PassOptions pass = {};
  // The embedded tokens [N, D] as the first block got them, for models whose shared blocks read them again (Zamba).
  tensor::ConstMatrix embedded = {};
  std::span<const int32_t> ids = {};  // [N]; for routers that go by the token itself (hash layers)
  // [N, D]: what routed experts of a block left for the end of the next (MoeSpec::shortcut).
  tensor::Matrix shortcut = {};
  // Where layers leave what their indexer chose, for layers after them that have none; null when no layer has one.
  Selections* selections = nullptr;

  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

/// Whose row each is, for random draws: [N], in the context's arena.
inline std::span<const ops::DropoutRow> name_rows(const Batch& batch) {
  auto* const rows = batch.context.arena.take<ops::DropoutRow>(batch.tokens());
  for (const SequenceRows& s : batch.sequences)
    for (int64_t r = s.first_row; r < s.first_row + s.rows; ++r)
      rows[r] = {s.step.random_key, batch.positions[static_cast<size_t>(r)]};
  return {rows, static_cast<size_t>(batch.tokens())};
}

}  // namespace coterie::layers
