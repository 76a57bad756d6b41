#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace coterie::layers {

/// What one sequence carries from step to step. Layers see only this; runtime decides where it lives and how it grows.
class SequenceState {
 public:
  virtual ~SequenceState() = default;
  /// Positions evaluated so far.
  virtual int64_t length() const = 0;
  /// Element type of the cache blocks: f32, f16, bf16 or q8_0.
  virtual tensor::DType cache_dtype() const = 0;
  /// Cache blocks of this layer's attention (ops::CacheLayout), enough for length() and the rows about to be added.
  virtual std::span<std::byte* const> blocks(int64_t layer) = 0;
  /// This layer's recurrent state (ssm/recurrent.h), the same size at every length: zeros before the first token,
  /// then what the tokens up to length() have left. Evaluating rows overwrites it with their result, so going back
  /// takes a copy.
  virtual std::span<float> recurrent(int64_t layer) = 0;
};

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

}  // namespace coterie::layers
