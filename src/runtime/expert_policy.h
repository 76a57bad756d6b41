#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace coterie::runtime {

/// What a policy has to divide: which experts there are, and how many places in memory ("slots") there are for them.
struct PolicyShape {
  int64_t layers = 0;   // with routed experts; numbered 0, 1, …
  int64_t experts = 0;  // of the widest of them
  // [layers * experts]: experts of one class have the same number of bytes and share slots; -1: an expert that does not
  // exist, or one that has no bytes.
  std::vector<int32_t> size_class;
  std::vector<int64_t> slots;  // of each class
  int64_t aging = 16;          // tokens after which counts of use are halved
  int64_t ring = 0;            // slots of a class that a prompt's misses pass through; 0: a share of them (ring_slots)
  int64_t widest_ring = 16;    // of that share, at most

  int32_t class_of(int64_t layer, int64_t expert) const {
    return size_class[static_cast<size_t>(layer * experts + expert)];
  }
};

/// Rows of one sequence from which on a step reads a prompt; fewer decode.
inline constexpr int64_t kPromptTokens = 16;

/// How many of a prompt's last tokens say what the answer will ask for.
inline constexpr int64_t kWarmTokens = 16;

/// An expert that a layer is about to compute.
struct ExpertDemand {
  int32_t expert = 0;
  int64_t tokens = 1;  // that were sent to it
  // Of them, the last ones (kWarmTokens) of a prompt: the answer will probably ask for the expert again. In a step that
  // decodes as well, those of the other sequences, too.
  int64_t warm = 0;
};

/// Which experts keep a slot. No input, output, clock or thread is in it: the same demands give the same decisions, so
/// a run is repeatable in the bytes it reads, and `coterie simulate` counts with the code of the engine.
///
/// One pool per size class over all layers. The victim is the expert of the least aged count of use (LFU, halved every
/// PolicyShape::aging tokens), among equals the one not used for longest. Counts of experts without a slot are kept:
/// below one token's set of slots LRU gives 0 hits, this a third. Replayed on the routes of four published models, half
/// lives of 8 to 64 tokens differ by 3 points at most, and 16 is the best on average (December 2026, docs/claims.md).
///
/// A prompt asks for nearly all experts, layer after layer, chunk after chunk; over such a scan a fixed set of experts
/// has the most hits. So a prompt's misses pass through a few slots (the ring), the others keep what they hold, except
/// that experts marked as warm get slots of their own. Where a layer takes a prompt in several pieces before the next
/// layer begins, the ring is as wide as one layer's misses: what a piece has read is there for the next.
class ExpertPolicy {
 public:
  /// Throws internal for a class without slots.
  explicit ExpertPolicy(PolicyShape shape);

  static constexpr int32_t kNone = -1;

  struct Use {
    int32_t expert = kNone, slot = kNone;
    bool hit = false;                                       // else the slot is to be filled
    int32_t evicted_layer = kNone, evicted_expert = kNone;  // what a slot held that is to be filled; none: nothing
    // The slot still serves uses[after] of this plan, which must be computed before the slot is filled. Only where
    // there are more misses than slots to put them.
    int32_t after = kNone;
  };

  /// Hits first, then misses; each in the order of the demands.
  struct Plan {
    std::vector<Use> uses;
    int64_t hits = 0;
    int64_t misses() const { return static_cast<int64_t>(uses.size()) - hits; }
  };

  /// Whether a layer asks once in a step, or for one piece of the step's rows after the other.
  enum class Pieces { one, first, next };
  /// For the distinct experts that a layer sends rows of a step of `tokens` rows to. Their slots are leased: no other
  /// plan takes them until release(layer). A layer not above the last one begins a new step, by which counts age,
  /// except with a next piece.
  Plan plan(int64_t layer, std::span<const ExpertDemand> demands, int64_t tokens, bool prompt,
            Pieces pieces = Pieces::one);
  /// The layer has been computed.
  void release(int64_t layer);

  /// What `layer` will probably ask for next, the most probable first; ids of other layers are left out.
  /// Those that are there are spared until the next plan. Others get slots, as far as there are some for them: in
  /// decoding an eighth of all, those of the least count, in a prompt empty ones and the ring's, also such as a plan
  /// that is leased now still has to compute. Such a slot is nobody's victim until a plan asks for the expert, or until
  /// arrived(), and anybody's afterwards. Not counted as a use.
  struct Prefetch {
    int32_t expert = kNone, slot = kNone;
  };
  std::vector<Prefetch> prefetch(int64_t layer, std::span<const int32_t> experts, bool prompt);
  void arrived(int32_t slot);
  /// The slot could not be filled: it holds nothing.
  void forget(int32_t slot);

  struct Counts {
    int64_t tokens = 0, hits = 0, misses = 0;
    double hit_share() const {
      return hits + misses == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(hits + misses);
    }
  };
  const Counts& decode() const { return decode_; }
  const Counts& prompt() const { return prompt_; }
  void reset_counts() { decode_ = prompt_ = {}; }
  /// Whether what one layer may miss fits into the ring and leaves half as much again for the others: then a prompt is
  /// better read in pieces, layer by layer.
  bool holds_a_layer() const;

  /// Slots are numbered through all classes: those of class c are first_slot(c) … first_slot(c + 1) - 1.
  int32_t first_slot(int64_t size_class) const { return first_slot_[static_cast<size_t>(size_class)]; }
  /// Of an expert, kNone where it has none.
  int32_t slot_of(int64_t layer, int64_t expert) const { return places_[at(layer, expert)].slot; }
  /// That no plan may take now: 0 between steps.
  int64_t leased() const;
  const PolicyShape& shape() const { return shape_; }

 private:
  struct Place {  // of one expert
    double count = 0;
    int64_t last = 0;         // plan that asked for it
    int64_t warm_in = 0;      // step
    int64_t guessed = kNone;  // after that plan
    int32_t slot = kNone;
  };
  struct Slot {
    int32_t layer = kNone, expert = kNone;
    int32_t leased_by = kNone;  // a layer
    bool arriving = false, in_ring = false;
  };

  class Planning;

  size_t at(int64_t layer, int64_t expert) const { return static_cast<size_t>(layer * shape_.experts + expert); }
  bool free(const Slot& slot) const { return slot.leased_by == kNone && !slot.arriving; }
  void begin_step(int64_t tokens, bool prompt);
  /// Of a class, for experts of `layer` that are guessed.
  std::vector<int32_t> slots_ahead(int64_t size_class, int64_t layer, int64_t wanted) const;
  std::vector<int32_t> passing_slots(int64_t size_class, int64_t layer, int64_t wanted);
  bool spared(const Slot& slot) const {
    return slot.layer != kNone && places_[at(slot.layer, slot.expert)].guessed == now_;
  }
  std::vector<int32_t> victims(int64_t size_class, int64_t layer, int64_t wanted, bool prompt, Pieces pieces) const;
  int64_t wider_ring(size_t size_class, int64_t layer, int64_t passing, Pieces pieces) const;
  void fill(Use& use, int64_t layer);
  void put(int32_t slot, int64_t layer, int32_t expert);

  PolicyShape shape_;
  std::vector<int32_t> first_slot_;  // [classes + 1]
  std::vector<Slot> slots_;
  std::vector<Place> places_;               // [layers * experts]
  std::vector<std::vector<int32_t>> ring_;  // [classes], the longest filled first
  std::vector<int64_t> of_a_layer_;         // [classes]: experts of the layer that has most of them
  int64_t last_layer_ = kNone, now_ = 0, step_ = 0, aged_ = 0;
  double weight_ = 1;  // of a token in the counts
  Counts decode_, prompt_;
};

/// Slots of `all` that a prompt's misses pass through: at most 15 %, and no more than keep a disk busy.
int64_t ring_slots(int64_t all, int64_t widest = PolicyShape().widest_ring);

}  // namespace coterie::runtime
