#pragma once

#include <cstdint>
#include <span>

#include "base/function_ref.h"
#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"
#include "ops/conv.h"
#include "ops/tape.h"

namespace coterie::layers {

/// Floats of a layer's recurrent state for one sequence: the last inputs of the convolution, then the states.
int64_t state_floats(const MambaSpec& spec);
int64_t state_floats(const Mamba2Spec& spec);
int64_t state_floats(const DeltaRuleSpec& spec);
int64_t state_floats(const ShortConvSpec& spec, int64_t width);
int64_t state_floats(const LightningSpec& spec);

/// A part of a layer's recurrent state: `floats` from float `offset` on, of `size` in all.
struct StatePart {
  int64_t offset = 0, floats = 0, size = 0;
};
/// Runs an op over the sequences of a batch with their part of this layer's state: in one go, or where a sequence keeps
/// its states after each row (SequenceState::recurrent_after) row by row, with a copy of the part after each. No op's
/// bits depend on that. Throws internal when a sequence's state is not of `part.size` floats.
void run_recurrence(const Batch& batch, int64_t layer, const StatePart& part,
                    base::FunctionRef<void(std::span<const ops::Recurrence> sequences)> run);

/// Rows as a file has them, [rows, cols], to columns: kernels run across channels, which files have as rows.
tensor::Buffer<float> transposed(const float* values, int64_t rows, int64_t cols);
/// A, from A_log or from what GGUF holds in its place.
void make_decay(const Vector& a_log, float* a);

/// Under a tape, before they are used: gradients by what transposed() and make_decay() made go on to the parameters
/// they were made of. `from` [rows, cols], `by_columns` [cols, rows]; with `decay` the latter is make_decay's,
/// transposed.
void record_derived(ops::Tape& tape, const Vector& from, int64_t rows, int64_t cols, const float* by_columns,
                    bool decay);

}  // namespace coterie::layers
