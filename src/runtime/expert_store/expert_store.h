#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "layers/moe/prefetching_source.h"
#include "runtime/expert_policy.h"
#include "runtime/expert_store/block_reader.h"
#include "runtime/expert_store/expert_layout.h"
#include "runtime/expert_store/file_table.h"
#include "runtime/expert_store/look_ahead.h"
#include "runtime/expert_store/prefetch_reads.h"
#include "runtime/expert_store/slot_arena.h"
#include "runtime/expert_store/stream_figures.h"

namespace coterie::runtime {

/// Routed experts that are read from the model's files as layers ask for them, into slots of memory that hold as many
/// as there is room for (docs/design/expert-store.md). A layer gets the experts that are there first; those that are
/// not are all asked for at once, and handed out as they arrive. Results are those of a model that is all in memory,
/// to the bit; without look-ahead, which experts are kept depends on what was asked for alone (ExpertPolicy).
///
/// Used by the thread that runs the model. A read that fails throws io, naming the tensor, the expert and the offset;
/// the expert is then not there, and may be asked for again.
class ExpertStore final : public layers::PrefetchingSource {
 public:
  /// `layout` fitted to the reader's unit; `slots`: how many of each size class, at least one. All are resident when it
  /// returns. `source` and `files` must outlive it. Throws out_of_memory.
  ExpertStore(ExpertLayout layout, const checkpoint::TensorSource& source, const FileTable& files,
              std::unique_ptr<BlockReader> reader, std::vector<int64_t> slots, LookAhead look_ahead = LookAhead::off);
  ~ExpertStore() override;

  /// What the next pass evaluates.
  struct Step {
    int64_t tokens = 0;
    bool prompt = false;       // which leaves the experts that are there where they are
    int64_t rows_at_once = 0;  // above 0: a layer asks for one piece of the rows after the other
    // Rows [begin, end), ascending, of tokens after which one is chosen: the answer's next will go where they went.
    std::vector<std::pair<int64_t, int64_t>> warm = {};
  };
  /// Without it each call of a layer is looked at by itself.
  void begin_step(Step step);
  /// It has been evaluated.
  void end_step();

  int64_t rows_at_once() const override { return step_.rows_at_once; }
  /// In prompts, whose next layer wants nearly all its experts, unless it is off; in decoding where it pays.
  bool looks_ahead() const override;
  void prefetch_by(const layers::RoutingGuess* next) override { guess_ = next; }
  std::unique_ptr<layers::ExpertLease> lease(const layers::ExpertCall& call) override;

  const StreamFigures& figures();
  void reset_figures();
  const ExpertLayout& layout() const { return layout_; }
  const BlockReader& reader() const { return *reader_; }
  BlockReader& reader() { return *reader_; }
  const ExpertPolicy& policy() const { return policy_; }
  std::span<const int64_t> slots() const { return policy_.shape().slots; }  // of each size class
  int64_t slot_memory() const { return arena_.bytes(); }
  int64_t all_slots() const;
  const LookAheadSwitch& look_ahead() const { return switch_; }

 private:
  class Lease;

  /// Of the layer that a call's, or a guess's, experts belong to; ExpertPolicy::kNone: of none.
  int32_t layer_of(std::span<const ops::ExpertInput> inputs) const;
  std::byte* slot(const StoredExpert& expert, int32_t number) const;
  std::vector<ExpertPiece> pieces(int32_t layer, int32_t expert, int32_t slot) const;

  ExpertLayout layout_;
  const checkpoint::TensorSource& source_;
  const FileTable& files_;
  std::unique_ptr<BlockReader> reader_;
  SlotArena arena_;
  ExpertPolicy policy_;
  PrefetchReads prefetch_;
  LookAheadSwitch switch_;
  Guesses guesses_;
  const layers::RoutingGuess* guess_ = nullptr;
  base::Stopwatch clock_;    // since the step began
  int64_t asked_ = 0;        // experts that had been asked for in decoding then
  double noted_busy_ = 0;    // seconds of the reader that the figures have
  int64_t noted_bytes_ = 0;  // that were read ahead and that the figures have
  bool ring_ahead_ = false;  // what was guessed last was so in a prompt
  Step step_;                // no tokens: not told
  int32_t layer_ = -1;       // of the step, that was asked for last
  int64_t rows_ = 0;         // of the step, that it has been asked for
  StreamFigures figures_;
};

}  // namespace coterie::runtime
