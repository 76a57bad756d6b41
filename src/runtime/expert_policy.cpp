#include "runtime/expert_policy.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

#include "base/error.h"

namespace coterie::runtime {

int64_t ring_slots(int64_t all, int64_t widest) {
  return std::clamp<int64_t>(all * 15 / 100, std::min<int64_t>(all, 2), widest);
}

ExpertPolicy::ExpertPolicy(PolicyShape shape) : shape_(std::move(shape)) {
  base::require(std::ssize(shape_.size_class) == shape_.layers * shape_.experts && shape_.aging > 0, "expert policy",
                "{} classes of size for {} layers of {} experts", shape_.size_class.size(), shape_.layers,
                shape_.experts);
  int64_t begin = 0;
  for (const int64_t count : shape_.slots) {
    base::require(count > 0, "expert policy", "{} slots for a class of experts", count);
    first_slot_.push_back(static_cast<int32_t>(begin));
    begin += count;
  }
  first_slot_.push_back(static_cast<int32_t>(begin));
  slots_.resize(static_cast<size_t>(begin));
  places_.resize(shape_.size_class.size());
  ring_.resize(shape_.slots.size());
  for (const int32_t c : shape_.size_class)
    base::require(c >= kNone && c < std::ssize(shape_.slots), "expert policy", "class {} of {}", c,
                  shape_.slots.size());
  of_a_layer_.resize(shape_.slots.size());
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    std::vector<int64_t> here(shape_.slots.size());
    for (int64_t e = 0; e < shape_.experts; ++e)
      if (const int32_t c = shape_.class_of(layer, e); c >= 0) ++here[static_cast<size_t>(c)];
    for (size_t c = 0; c < here.size(); ++c) of_a_layer_[c] = std::max(of_a_layer_[c], here[c]);
  }
}

bool ExpertPolicy::holds_a_layer() const {
  for (size_t c = 0; c < shape_.slots.size(); ++c)
    if (shape_.slots[c] < of_a_layer_[c] * 3 / 2) return false;
  return true;
}

void ExpertPolicy::begin_step(int64_t tokens, bool prompt) {
  ++step_, aged_ += tokens;
  if (const int64_t halvings = aged_ / shape_.aging; halvings > 0) {
    aged_ %= shape_.aging;
    // What a count has come down to after 60 halvings is nothing beside one use.
    for (Place& place : places_) place.count = halvings > 60 ? 0 : std::ldexp(place.count, -static_cast<int>(halvings));
  }
  // The rows of a long step come at once: they weigh what they would have if counts had aged between them.
  weight_ = std::min(1.0, 2.0 * static_cast<double>(shape_.aging) / static_cast<double>(std::max<int64_t>(tokens, 1)));
  (prompt ? prompt_ : decode_).tokens += tokens;
  if (prompt) return;
  for (std::vector<int32_t>& ring : ring_) {  // what a prompt read last is as good as the rest
    for (const int32_t slot : ring) slots_[static_cast<size_t>(slot)].in_ring = false;
    ring.clear();
  }
}

// Up to `wanted` slots, the first to be taken first: empty ones, then those of the least count, the longest unused.
// In a prompt experts of layers that the step has still to come to (or that it is at, where another piece may follow)
// are spared as long as possible, and warm ones longer.
std::vector<int32_t> ExpertPolicy::victims(int64_t size_class, int64_t layer, int64_t wanted, bool prompt,
                                           Pieces pieces) const {
  const int64_t done = pieces == Pieces::one ? layer : layer - 1;
  std::vector<int32_t> found;
  for (int32_t i = first_slot(size_class); i < first_slot(size_class + 1); ++i)
    if (const Slot& slot = slots_[static_cast<size_t>(i)]; free(slot) && !slot.in_ring && !spared(slot))
      found.push_back(i);
  const auto key = [&](int32_t i) {
    const Slot& slot = slots_[static_cast<size_t>(i)];
    if (slot.layer == kNone) return std::tuple(-1, 0.0, int64_t{0}, i);
    const Place& place = places_[at(slot.layer, slot.expert)];
    const int spared = !prompt ? 0 : place.warm_in == step_ ? 2 : slot.layer > done ? 1 : 0;
    return std::tuple(spared, place.count, place.last, slot.expert);
  };
  wanted = std::min<int64_t>(wanted, std::ssize(found));
  std::partial_sort(found.begin(), found.begin() + wanted, found.end(),
                    [&](int32_t a, int32_t b) { return key(a) < key(b); });
  found.resize(static_cast<size_t>(wanted));
  return found;
}

// By how many slots the ring grows for so many misses that pass through it.
int64_t ExpertPolicy::wider_ring(size_t size_class, int64_t layer, int64_t passing, Pieces pieces) const {
  const int64_t all = shape_.slots[size_class];
  const std::vector<int32_t>& ring = ring_[size_class];
  const int64_t wide = shape_.ring > 0 ? std::min(shape_.ring, all) : ring_slots(all, shape_.widest_ring);
  const int64_t more = std::max<int64_t>(wide - std::ssize(ring), 0);
  if (pieces == Pieces::one || !holds_a_layer()) return more;
  // What this layer has read stays until its last piece.
  const auto reusable = std::count_if(ring.begin(), ring.end(), [&](int32_t slot) {
    const Slot& s = slots_[static_cast<size_t>(slot)];
    return s.layer != layer && free(s);
  });
  return std::clamp<int64_t>(passing - reusable, more, std::max(of_a_layer_[size_class] - std::ssize(ring), more));
}

void ExpertPolicy::put(int32_t slot, int64_t layer, int32_t expert) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  if (s.layer != kNone) places_[at(s.layer, s.expert)].slot = kNone;
  s.layer = static_cast<int32_t>(layer), s.expert = expert;
  places_[at(layer, expert)].slot = slot;
}

void ExpertPolicy::fill(Use& use, int64_t layer) {
  Slot& slot = slots_[static_cast<size_t>(use.slot)];
  use.evicted_layer = slot.layer, use.evicted_expert = slot.expert;
  put(use.slot, layer, use.expert);
  slot.leased_by = static_cast<int32_t>(layer);
}

// One plan() under way.
class ExpertPolicy::Planning {
 public:
  Planning(ExpertPolicy& policy, int64_t layer, bool prompt, Pieces pieces)
      : policy_(policy),
        layer_(layer),
        prompt_(prompt),
        pieces_(pieces),
        classes_(policy.shape_.slots.size()),
        kept_(classes_, 0),
        passing_(classes_, 0),
        staying_(classes_, 0),
        chosen_(classes_),
        next_(classes_, 0),
        again_(classes_, 0) {}

  Plan plan(std::span<const ExpertDemand> demands) {
    for (const ExpertDemand& demand : demands) count(demand);
    plan_.hits = std::ssize(plan_.uses);
    plan_.uses.reserve(demands.size());
    Counts& counts = prompt_ ? policy_.prompt_ : policy_.decode_;
    counts.hits += plan_.hits, counts.misses += std::ssize(missing_);
    divide();
    choose();
    last_use_.assign(policy_.slots_.size(), kNone);
    for (size_t u = 0; u < plan_.uses.size(); ++u)
      last_use_[static_cast<size_t>(plan_.uses[u].slot)] = static_cast<int32_t>(u);
    for (size_t m = 0; m < missing_.size(); ++m) place(*missing_[m], passes_[m]);
    return std::move(plan_);
  }

 private:
  size_t class_of(int32_t expert) const { return static_cast<size_t>(policy_.shape_.class_of(layer_, expert)); }
  Slot& slot(int32_t i) const { return policy_.slots_[static_cast<size_t>(i)]; }
  /// A layer's share of the slots.
  int64_t share_of(size_t c) const { return std::max<int64_t>(policy_.shape_.slots[c] / policy_.shape_.layers, 1); }

  /// A hit is leased at once, a miss waits for its slot.
  void count(const ExpertDemand& demand) {
    const PolicyShape& shape = policy_.shape_;
    base::require(demand.expert >= 0 && demand.expert < shape.experts && shape.class_of(layer_, demand.expert) >= 0,
                  "expert policy", "layer {} has no expert {}", layer_, demand.expert);
    Place& place = policy_.places_[policy_.at(layer_, demand.expert)];
    base::require(place.last != policy_.now_, "expert policy", "expert {} is asked for twice", demand.expert);
    place.count +=
        policy_.weight_ * static_cast<double>(demand.tokens) + (1 - policy_.weight_) * static_cast<double>(demand.warm);
    place.last = policy_.now_;
    if (demand.warm > 0) place.warm_in = policy_.step_;
    if (place.slot == kNone) {
      missing_.push_back(&demand);
      return;
    }
    const size_t c = class_of(demand.expert);
    Slot& held = slot(place.slot);
    held.leased_by = static_cast<int32_t>(layer_), held.arriving = false;
    if (prompt_ && demand.warm > 0 && held.in_ring && staying_[c] < share_of(c)) {
      held.in_ring = false, ++staying_[c];
      std::erase(policy_.ring_[c], place.slot);
    }
    plan_.uses.push_back({.expert = demand.expert, .slot = place.slot, .hit = true});
  }

  // Where the last tokens of a prompt want more than the slots hold, each layer keeps its share, of those that most of
  // them want: otherwise the last layers would take what the first have kept, and every prompt would read nearly all.
  void divide() {
    passes_.resize(missing_.size());
    std::vector<size_t> by_warm(missing_.size());
    std::iota(by_warm.begin(), by_warm.end(), size_t{0});
    if (prompt_)
      std::stable_sort(by_warm.begin(), by_warm.end(),
                       [&](size_t a, size_t b) { return missing_[a]->warm > missing_[b]->warm; });
    for (const size_t m : by_warm) {
      const size_t c = class_of(missing_[m]->expert);
      passes_[m] = prompt_ && (missing_[m]->warm == 0 || kept_[c] + staying_[c] >= share_of(c));
      ++(passes_[m] ? passing_ : kept_)[c];
    }
  }

  // All victims are chosen before anything of this plan is read: by the demands alone, never by what arrives first.
  void choose() {
    for (size_t c = 0; c < classes_; ++c) {
      if (kept_[c] + passing_[c] == 0) continue;
      int64_t wanted = kept_[c];
      if (passing_[c] > 0) {  // empty slots, and what the ring lacks
        int64_t empty = 0;
        for (int32_t i = policy_.first_slot_[c]; i < policy_.first_slot_[c + 1]; ++i)
          empty += slot(i).layer == kNone && policy_.free(slot(i));
        const int64_t room = std::max<int64_t>(empty - kept_[c], 0);
        wanted += std::min(passing_[c], room + policy_.wider_ring(c, layer_, passing_[c], pieces_));
      }
      chosen_[c] = policy_.victims(static_cast<int64_t>(c), layer_, wanted, prompt_, pieces_);
    }
  }

  void place(const ExpertDemand& demand, bool passes) {
    const size_t c = class_of(demand.expert);
    --(passes ? passing_ : kept_)[c];
    Use use{.expert = demand.expert, .slot = slot_for(c, passes)};
    int32_t& before = last_use_[static_cast<size_t>(use.slot)];
    use.after = before, before = static_cast<int32_t>(plan_.uses.size());
    policy_.fill(use, layer_);
    plan_.uses.push_back(use);
  }

  int32_t slot_for(size_t c, bool passes) {
    std::vector<int32_t>& ring = policy_.ring_[c];
    // A miss that passes leaves enough of the chosen slots to those that stay.
    const int64_t left = std::ssize(chosen_[c]) - static_cast<int64_t>(next_[c]);
    if (left > (passes ? kept_[c] : 0)) {
      const int32_t taken = chosen_[c][next_[c]++];
      if (passes && slot(taken).layer != kNone) slot(taken).in_ring = true, ring.push_back(taken);
      return taken;
    }
    const auto oldest = std::find_if(ring.begin(), ring.end(),
                                     [&](int32_t i) { return policy_.free(slot(i)) || slot(i).leased_by == layer_; });
    if (oldest != ring.end()) {
      const int32_t taken = *oldest;
      std::rotate(oldest, oldest + 1, ring.end());
      return taken;
    }
    // The slots of this plan's own experts, in their order.
    while (again_[c] < plan_.uses.size() && class_of(plan_.uses[again_[c]].expert) != c) ++again_[c];
    if (again_[c] < plan_.uses.size()) return plan_.uses[again_[c]++].slot;
    // None yet: one that was to stay, which others then pass through as well.
    base::require(left > 0, "expert policy", "every slot is leased by another layer");
    const int32_t taken = chosen_[c][next_[c]++];
    slot(taken).in_ring = true, ring.push_back(taken);
    return taken;
  }

  ExpertPolicy& policy_;
  const int64_t layer_;
  const bool prompt_;
  const Pieces pieces_;
  const size_t classes_;
  Plan plan_;
  std::vector<const ExpertDemand*> missing_;
  std::vector<char> passes_;             // of each that is missing: it passes through the ring
  std::vector<int64_t> kept_, passing_;  // [classes]: misses still to place that get slots of their own, or the ring's
  std::vector<int64_t> staying_;         // [classes]: of the ring's, that stay where they are
  std::vector<std::vector<int32_t>> chosen_;  // [classes]: victims
  std::vector<size_t> next_;                  // [classes]: of them, the next to be taken
  std::vector<size_t> again_;                 // [classes]: the first use of this plan whose slot can be used once more
  std::vector<int32_t> last_use_;             // of each slot, in this plan
};

ExpertPolicy::Plan ExpertPolicy::plan(int64_t layer, std::span<const ExpertDemand> demands, int64_t tokens, bool prompt,
                                      Pieces pieces) {
  base::require(layer >= 0 && layer < shape_.layers, "expert policy", "layer {} of {}", layer, shape_.layers);
  base::require(pieces != Pieces::next || layer == last_layer_, "expert policy", "layer {} goes on after layer {}",
                layer, last_layer_);
  if (pieces != Pieces::next && (layer <= last_layer_ || last_layer_ == kNone)) begin_step(tokens, prompt);
  last_layer_ = layer, ++now_;
  return Planning(*this, layer, prompt, pieces).plan(demands);
}

void ExpertPolicy::release(int64_t layer) {
  for (Slot& slot : slots_)
    if (slot.leased_by == layer) slot.leased_by = kNone;
}

// While a layer is computed little of a token's set is anybody's victim: an eighth of the slots, so that the next plan
// finds some whatever was guessed.
std::vector<int32_t> ExpertPolicy::slots_ahead(int64_t size_class, int64_t layer, int64_t wanted) const {
  const auto begin = slots_.begin() + first_slot(size_class), end = slots_.begin() + first_slot(size_class + 1);
  const auto arriving = std::count_if(begin, end, [](const Slot& slot) { return slot.arriving; });
  wanted = std::min<int64_t>(wanted, (end - begin) / 8 - arriving);
  return wanted > 0 ? victims(size_class, layer, wanted, false, Pieces::one) : std::vector<int32_t>();
}

// Empty ones, then the ring's, the longest filled first.
std::vector<int32_t> ExpertPolicy::passing_slots(int64_t size_class, int64_t layer, int64_t wanted) {
  std::vector<int32_t> found;
  for (int32_t i = first_slot(size_class); i < first_slot(size_class + 1) && std::ssize(found) < wanted; ++i)
    if (const Slot& slot = slots_[static_cast<size_t>(i)]; slot.layer == kNone && free(slot)) found.push_back(i);
  std::vector<int32_t>& ring = ring_[static_cast<size_t>(size_class)];
  const auto taken = std::stable_partition(ring.begin(), ring.end(), [&](int32_t i) {
    const Slot& slot = slots_[static_cast<size_t>(i)];
    const bool takes = std::ssize(found) < wanted && !slot.arriving && !(slot.layer == layer && spared(slot));
    if (takes) found.push_back(i);
    return !takes;
  });
  (void)taken;  // they are the last filled now
  return found;
}

std::vector<ExpertPolicy::Prefetch> ExpertPolicy::prefetch(int64_t layer, std::span<const int32_t> experts,
                                                           bool prompt) {
  std::vector<std::vector<int32_t>> missing(shape_.slots.size());
  for (const int32_t e : experts) {
    const int32_t c = e >= 0 && e < shape_.experts ? shape_.class_of(layer, e) : kNone;
    if (c == kNone) continue;
    Place& place = places_[at(layer, e)];
    if (std::exchange(place.guessed, now_) == now_ || place.slot != kNone) continue;
    missing[static_cast<size_t>(c)].push_back(e);
  }
  std::vector<Prefetch> result;
  for (size_t c = 0; c < missing.size(); ++c) {
    if (missing[c].empty()) continue;
    const auto number = static_cast<int64_t>(c), wanted = std::ssize(missing[c]);
    const std::vector<int32_t> slots =
        prompt ? passing_slots(number, layer, wanted) : slots_ahead(number, layer, wanted);
    for (size_t i = 0; i < slots.size(); ++i) {
      put(slots[i], layer, missing[c][i]);
      slots_[static_cast<size_t>(slots[i])].arriving = true;
      result.push_back({missing[c][i], slots[i]});
    }
  }
  return result;
}

void ExpertPolicy::arrived(int32_t slot) { slots_[static_cast<size_t>(slot)].arriving = false; }

void ExpertPolicy::forget(int32_t slot) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  if (s.layer != kNone) places_[at(s.layer, s.expert)].slot = kNone;
  s.layer = s.expert = kNone, s.arriving = false;
}

int64_t ExpertPolicy::leased() const {
  return std::count_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.leased_by != kNone; });
}

}  // namespace coterie::runtime
