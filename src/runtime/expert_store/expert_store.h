#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "layers/moe/piecewise_source.h"
#include "runtime/expert_policy.h"
#include "runtime/expert_store/block_reader.h"
#include "runtime/expert_store/expert_layout.h"
#include "runtime/expert_store/file_table.h"
#include "runtime/expert_store/slot_arena.h"
#include "runtime/expert_store/stream_figures.h"

namespace coterie::runtime {

/// Routed experts that are read from the model's files as layers ask for them, into slots of memory that hold as many
/// as there is room for (docs/design/expert-store.md). A layer gets the experts that are there first; those that are
/// not are all asked for at once, and handed out as they arrive. Results are those of a model that is all in memory,
/// to the bit; which experts are kept depends on what was asked for alone (ExpertPolicy).
///
/// Used by the thread that runs the model. A read that fails throws io, naming the tensor, the expert and the offset;
/// the expert is then not there, and may be asked for again.
class ExpertStore final : public layers::PiecewiseSource {
 public:
  /// `layout` fitted to the reader's unit; `slots`: how many of each size class, at least one. All are resident when it
  /// returns. `source` and `files` must outlive it. Throws out_of_memory.
  ExpertStore(ExpertLayout layout, const checkpoint::TensorSource& source, const FileTable& files,
              std::unique_ptr<BlockReader> reader, std::vector<int64_t> slots);
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

  int64_t rows_at_once() const override { return step_.rows_at_once; }
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

 private:
  class Lease;

  ExpertLayout layout_;
  const checkpoint::TensorSource& source_;
  const FileTable& files_;
  std::unique_ptr<BlockReader> reader_;
  SlotArena arena_;
  ExpertPolicy policy_;
  Step step_;           // no tokens: not told
  int32_t layer_ = -1;  // of the step, that was asked for last
  int64_t rows_ = 0;    // of the step, that it has been asked for
  StreamFigures figures_;
};

}  // namespace coterie::runtime
