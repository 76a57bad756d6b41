#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "comm/message.h"
#include "layers/resident_state.h"
#include "models/decoder.h"

namespace coterie::runtime {

/// The layers whose blocks and states a rank has.
struct KeptLayers {
  int64_t first = 0, end = INT64_MAX;
};

/// Copies of rank 0's sequences on the other ranks: which positions of which lineage (SequenceState::lineage) are
/// there, what goes into a message so that a step can be evaluated on them, and on the other side what is made of it.
/// Both sides forget a copy that no step has used for a while, by the same rule; or, where it is all there is of some
/// layers, when rank 0 says so.
class SequenceCopies {
 public:
  enum class Lasts { a_while, until_released };
  /// `layers`: of this rank, of what it reads; rank 0 says of whom it writes to.
  explicit SequenceCopies(const models::ModelSpec& spec, Lasts lasts = Lasts::a_while, KeptLayers layers = {});
  ~SequenceCopies();

  // On rank 0:

  /// The steps that are to be taken together, all with rows. What they point at must stay as it is until keep().
  void begin(std::span<const models::SequenceStep* const> steps);
  /// Writes them for a rank: ids, and of each cache what the other ranks lack of it. `states(i)`: whether the recurrent
  /// states before the step go with it.
  void write(comm::Writer& message, base::FunctionRef<bool(size_t)> states, KeptLayers layers = {}) const;
  /// How many of its positions the others have already.
  int64_t positions_there(size_t sequence) const { return shared_[sequence].positions; }
  /// Whether the others have a sequence as it is, recurrent states included, which they moved on themselves.
  bool exact(size_t sequence) const;
  /// After the step, which the other ranks have taken, too. `exactly`: all rows, so that recurrent states are right.
  void keep(uint64_t number, bool exactly);
  /// After a step that failed: the copies are made anew. Or, where they are all there is, they go on from where they
  /// stood, with the recurrent states that rank 0 will send.
  void forget();
  void release(uint64_t lineage) { known_.erase(lineage); }

  // On another rank:

  /// The steps that a message brings, as long as this lives and until the next message is read. They are evaluated on
  /// copies, which stand where rank 0's sequences do. Throws internal for a message of another protocol.
  std::vector<models::SequenceStep> read(comm::Message& message);
  /// After a step: the copies stay. Without it they are gone.
  void keep_read(uint64_t number);
  /// After a step that failed: they are what they were, but for recurrent states.
  void put_back();
  void release_read(uint64_t lineage) { held_.erase(lineage); }
  /// The copy of a lineage. Throws internal where there is none.
  layers::SequenceState& held(uint64_t lineage);

 private:
  class Copy;
  struct Known {
    int64_t positions = 0;
    bool exact = false;
    uint64_t step = 0;  // the last that used it
  };
  struct Held {
    std::shared_ptr<Copy> copy;
    uint64_t step = 0;
  };
  // What the others have of a sequence: the copy of this lineage has its first positions.
  struct Shared {
    uint64_t from = 0;
    int64_t positions = 0;
  };
  Shared shared_with_others(const layers::SequenceState& state) const;
  std::vector<int64_t> block_bytes(tensor::DType dtype, KeptLayers layers) const;
  std::vector<int64_t> state_floats(KeptLayers layers) const;

  const models::ModelSpec& spec_;
  Lasts lasts_;
  KeptLayers layers_;
  std::map<uint64_t, Known> known_;  // by lineage, on rank 0
  std::vector<const models::SequenceStep*> steps_;
  std::vector<Shared> shared_;     // of steps_
  std::map<uint64_t, Held> held_;  // by lineage, on another rank
  std::vector<std::shared_ptr<Copy>> read_;
  std::vector<uint64_t> lineages_;  // of read_
  std::vector<uint64_t> from_;      // of read_: the lineage that each was taken from; 0: it is new
  std::vector<std::vector<int32_t>> ids_;
};

}  // namespace coterie::runtime
