// Which walk a task of blocks takes: by its tokens, and by how its rows lie.
#pragma once
#include "kernels/matmul/streams.inl.h"

/// What multiplies one token, where it can: false and nothing done where it cannot.
using OneToken = bool (*)(const MatmulTask&) noexcept;

template <class Blocks, OneToken one_token>
void run_blocks(const MatmulTask& task) noexcept {
  if (task.repacked && task.tokens <= kRepackedFew) return run_streams<FewRepacked<typename Blocks::OfRepacked>>(task);
  if (task.repacked) return run_unpacked<Blocks, Repacked>(task);
  if constexpr (one_token != nullptr) {
    if (task.tokens == 1 && one_token(task)) return;
  }
  if (task.tokens <= Blocks::kFewTokens) return run_fused<Blocks>(task);
  run_unpacked<Blocks>(task);
}

template <class Blocks, OneToken one_token = nullptr>
constexpr MatmulKernel block_kernel() {
  return {run_blocks<Blocks, one_token>, panel_scratch<Blocks>, Blocks::kForm, Blocks::repacked_order()};
}
