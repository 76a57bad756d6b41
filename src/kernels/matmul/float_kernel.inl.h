// Which walk a task of floats takes: by its tokens, and by how its rows lie.
#pragma once
#include "kernels/matmul/floats_repacked.inl.h"

template <class Read>
void run_floats(const MatmulTask& task) noexcept {
  float* const panels = reinterpret_cast<float*>(task.scratch + 2 * kFloatCopyBytes);
  if (task.repacked && task.tokens <= kRepackedFew) return run_streams<FewRepackedFloats<Read>>(task);
  if (task.repacked) return run_packed_floats(task, panels, UnpackRepacked<Read>{task});
  if (task.tokens == 1) return run_few_floats<Read, 1>(task);
  if (task.tokens == 2) return run_few_floats<Read, 2>(task);
  run_packed_floats(task, panels, UnpackPlain<Read>{task});
}

template <class Read>
constexpr MatmulKernel float_kernel() {
  static_assert(covers(Read::kRepacked, 16));
  return {run_floats<Read>, floats_scratch, ActivationForm::floats, order_of(Read::kRepacked)};
}
