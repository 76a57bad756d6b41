#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/inbox.h"
#include "layers/sequence_state.h"
#include "layers/step_share.h"
#include "runtime/ranks/division.h"

namespace coterie::runtime {

/// One divided step as a rank sees it: which rows are whose, and what goes from one to another between the layers. New
/// keys and values go to all ranks, in whole cache blocks; attention waits for those of earlier rows alone. Recurrent
/// states go from each segment of a sequence to the next, and from the last to rank 0. All ranks make the same one.
class SharedStep final : public layers::StepShare {
 public:
  struct Sequence {
    layers::SequenceState* whole = nullptr;  // with room for all rows
    SequenceShare share;
  };
  /// `block_bytes`, `state_floats`: of each layer, as models:: gives them; 0 or empty for none. `cost`: of rows, by
  /// which they are divided.
  SharedStep(comm::Ranks& ranks, comm::Inbox& inbox, std::vector<Sequence> sequences, std::vector<int64_t> block_bytes,
             std::vector<int64_t> state_floats, const RowCost& cost);

  std::span<const Segment> segments() const { return segments_; }
  /// Those of this rank, in order, as states that begin where the segment does.
  std::span<const Segment* const> own() const { return own_; }
  layers::SequenceState& state_of(size_t own) { return *states_[own]; }
  /// Whether the next segment, if there is one, is another rank's.
  bool is_last_of_sequence(const Segment& segment) const;

  void keys_written(int64_t layer, std::span<const layers::SequenceRows> sequences) override;
  void wait_for_earlier_keys(int64_t layer) override;
  void states_written(int64_t layer, std::span<const layers::SequenceRows> sequences) override;
  /// After the last layer: waits for the keys and values of later rows, and on rank 0 for the states after the last.
  void finish();

 private:
  class State;
  struct Blocks {
    int64_t first, end;
  };
  Blocks blocks_of(const Segment& segment) const;
  const Segment* next_of(const Segment& segment) const;
  void put_keys(comm::Message& message);
  void wait_for_keys(int64_t layer, std::span<const char> from);
  void wait_for_states(int64_t layer, const Segment& from, std::span<float> into);
  void send_states(int to, int64_t layer, const Segment& segment);

  comm::Ranks& ranks_;
  comm::Inbox& inbox_;
  std::vector<Sequence> sequences_;
  std::vector<int64_t> block_bytes_, state_floats_;
  std::vector<Segment> segments_;
  std::vector<const Segment*> own_;
  std::vector<std::unique_ptr<layers::SequenceState>> states_;  // of own_
  std::vector<std::vector<char>> keys_missing_;                 // [L][R]
};

}  // namespace coterie::runtime
