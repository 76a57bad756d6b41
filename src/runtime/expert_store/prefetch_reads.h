#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/function_ref.h"
#include "runtime/expert_policy.h"
#include "runtime/expert_store/expert_pieces.h"

namespace coterie::runtime {

/// Reads of experts that the next layer will probably ask for, under way while a layer is computed. They give way to
/// what a layer waits for; when the next layer says what it wants, what was guessed rightly becomes its own, and the
/// rest ends. Each has a slot that ExpertPolicy::prefetch gave it, which it has until then.
class PrefetchReads {
 public:
  static constexpr int32_t kNone = ExpertPolicy::kNone;

  /// Both must outlive it, and nothing of it may be under way when it goes.
  PrefetchReads(ExpertPolicy& policy, BlockReader& reader) : policy_(policy), reader_(reader) {}

  /// To be read into the slot once `after`, a use of the lease that it was guessed in, has been computed; kNone: now.
  void add(int32_t layer, int32_t expert, int32_t slot, int32_t after, std::vector<ExpertPiece> pieces);
  /// Whether some wait for a slot.
  bool waits() const;
  /// Begins those whose slots are free by now.
  void begin(base::FunctionRef<bool(int32_t use)> computed);

  /// A layer asks for the experts `asked`, ascending. What it does not want is taken back, and where that has begun
  /// its slot is nobody's until it ends; `wait`: it has ended when this returns. To be called before a plan is made.
  void settle(int32_t layer, std::span<const int32_t> asked, bool wait);
  /// Whether what a slot holds, or is about to, was read ahead for the layer that was asked about last.
  bool ahead(int32_t slot) const;
  /// From now on the read that fills the slot belongs to use `use` of the lease: what of it has not begun is begun.
  /// Returns its pieces that are not there yet; 0: no read fills that slot.
  int64_t adopt(int32_t slot, int32_t use);

  static bool owns(uint64_t tag) { return (tag & kTag) != 0; }
  /// A read has ended. For one that was adopted: whose use it is, and what it was.
  struct Ended {
    int32_t use = kNone;
    ExpertPiece piece;
  };
  Ended ended(const ReadDone& done);
  /// The lease has ended, and with it all that it has adopted.
  void forget_adopted();
  /// Ends all of it: after an error.
  void drop();

  int64_t bytes() const { return bytes_; }  // that came before somebody asked for them
  void reset_counts() { bytes_ = 0; }

 private:
  static constexpr uint64_t kTag = uint64_t{1} << 63;
  static constexpr int kPieceBits = 24;

  enum class State : uint8_t { waiting, under_way, here };
  struct Read {
    int32_t layer, expert, slot, after;
    std::vector<ExpertPiece> pieces;
    std::vector<State> states;
    int32_t use = kNone;    // of the lease that has adopted it
    bool unwanted = false;  // its slot is given back once nothing of it is under way
    int64_t count(State state) const;
  };
  using Reads = std::unordered_map<uint64_t, Read>;  // by number

  void submit(Read& read, bool ahead);
  /// Gives its slot back unless something of it is under way; whether it did.
  bool end(const Read& read);

  ExpertPolicy& policy_;
  BlockReader& reader_;
  Reads reads_;
  struct Came {
    int32_t layer, slot;
  };
  std::vector<Came> came_;  // what was read before its layer asked for it
  uint64_t next_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace coterie::runtime
