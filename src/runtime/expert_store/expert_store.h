#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "layers/moe/expert_source.h"
#include "runtime/expert_policy.h"
#include "runtime/expert_store/block_reader.h"
#include "runtime/expert_store/expert_layout.h"
#include "runtime/expert_store/file_table.h"
#include "runtime/expert_store/slot_arena.h"

namespace coterie::runtime {

/// What reading experts has cost so far.
struct StreamFigures {
  struct Kind {
    int64_t tokens = 0, hits = 0, misses = 0;  // of experts that layers asked for
    int64_t bytes = 0;                         // that came from the disk
    double reading = 0;                        // seconds in which something was asked of the disk
    double stalled = 0;                        // seconds in which a layer could only wait for it

    double hit_share() const {
      return hits + misses == 0 ? 1 : static_cast<double>(hits) / static_cast<double>(hits + misses);
    }
    double bytes_per_token() const {
      return tokens == 0 ? 0 : static_cast<double>(bytes) / static_cast<double>(tokens);
    }
  };
  Kind decode, prompt;

  double bytes_per_second() const {
    const double seconds = decode.reading + prompt.reading;
    return seconds > 0 ? static_cast<double>(decode.bytes + prompt.bytes) / seconds : 0;
  }
};

/// Routed experts that are read from the model's files as layers ask for them, into slots of memory that hold as many
/// as there is room for (docs/design/expert-store.md). A layer gets the experts that are there first; those that are
/// not are all asked for at once, and handed out as they arrive. Results are those of a model that is all in memory,
/// to the bit; which experts are kept depends on what was asked for alone (ExpertPolicy).
///
/// Used by the thread that runs the model. A read that fails throws io, naming the tensor, the expert and the offset;
/// the expert is then not there, and may be asked for again.
class ExpertStore final : public layers::ExpertSource {
 public:
  /// `layout` fitted to the reader's unit; `slots`: how many of each size class, at least one. All are resident when it
  /// returns. `source` and `files` must outlive it. Throws out_of_memory.
  ExpertStore(ExpertLayout layout, const checkpoint::TensorSource& source, const FileTable& files,
              std::unique_ptr<BlockReader> reader, std::vector<int64_t> slots);
  ~ExpertStore() override;

  /// What the next pass evaluates: how many tokens, and whether as a prompt, which leaves the experts that are there
  /// where they are. Without it each call of a layer is looked at by itself.
  void begin_step(int64_t tokens, bool prompt);
  /// Tokens of one sequence from which on a step reads a prompt.
  static constexpr int64_t kPrompt = 16;

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
  int64_t step_tokens_ = 0;  // 0: not told
  bool step_prompt_ = false;
  StreamFigures figures_;
};

}  // namespace coterie::runtime
