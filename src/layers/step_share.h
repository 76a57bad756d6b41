#pragma once

#include <cstdint>
#include <span>

#include "layers/sequence_state.h"

namespace coterie::layers {

/// A step of which other ranks evaluate the other rows (PassOptions::share; null: all rows are here). Rows of a
/// sequence that lie elsewhere come before or after those that are here. Mixers tell it what they have written; what
/// rows before these have left is in the sequences' states when it returns. Called by the thread that runs the pass.
class StepShare {
 public:
  virtual ~StepShare() = default;

  /// Keys and values of the rows that are here are in the sequences' blocks of this layer: gives them to the other
  /// ranks.
  virtual void keys_written(int64_t layer, std::span<const SequenceRows> sequences) = 0;
  /// Attention is about to read them: waits for those of earlier rows.
  virtual void wait_for_earlier_keys(int64_t layer) = 0;
  /// A mixer has moved the recurrent states of this layer on: gives them to who has the next rows.
  virtual void states_written(int64_t layer, std::span<const SequenceRows> sequences) = 0;
};

}  // namespace coterie::layers
