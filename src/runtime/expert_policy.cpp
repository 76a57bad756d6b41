#include "runtime/expert_policy.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "base/error.h"

namespace coterie::runtime {

int64_t ring_slots(int64_t all) {
  constexpr int64_t kEnough = 16;  // reads of one expert that are waited for, computed and under way at once
  return std::clamp<int64_t>(all * 15 / 100, std::min<int64_t>(all, 2), kEnough);
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
    if (const Slot& slot = slots_[static_cast<size_t>(i)]; free(slot) && !slot.in_ring) found.push_back(i);
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
  const int64_t wide = shape_.ring > 0 ? std::min(shape_.ring, all) : ring_slots(all);
  const int64_t more = std::max<int64_t>(wide - std::ssize(ring), 0);
  if (pieces == Pieces::one || !holds_a_layer()) return more;
  // What this layer has read stays until its last piece.
  const auto reusable = std::count_if(ring.begin(), ring.end(), [&](int32_t slot) {
    const Slot& s = slots_[static_cast<size_t>(slot)];
    return s.layer != layer && s.leased_by == kNone;
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

ExpertPolicy::Plan ExpertPolicy::plan(int64_t layer, std::span<const ExpertDemand> demands, int64_t tokens, bool prompt,
                                      Pieces pieces) {
  base::require(layer >= 0 && layer < shape_.layers, "expert policy", "layer {} of {}", layer, shape_.layers);
  base::require(pieces != Pieces::next || layer == last_layer_, "expert policy", "layer {} goes on after layer {}",
                layer, last_layer_);
  if (pieces != Pieces::next && (layer <= last_layer_ || last_layer_ == kNone)) begin_step(tokens, prompt);
  last_layer_ = layer, ++now_;
  const size_t classes = shape_.slots.size();
  Plan plan;
  std::vector<const ExpertDemand*> missing;
  std::vector<int64_t> kept(classes, 0), passing(classes, 0);  // misses that get slots of their own, or the ring's
  std::vector<int64_t> staying(classes, 0);                    // of the ring's, that stay where they are
  const auto share_of = [&](size_t c) { return std::max<int64_t>(shape_.slots[c] / shape_.layers, 1); };  // a layer's
  for (const ExpertDemand& demand : demands) {
    base::require(demand.expert >= 0 && demand.expert < shape_.experts && shape_.class_of(layer, demand.expert) >= 0,
                  "expert policy", "layer {} has no expert {}", layer, demand.expert);
    Place& place = places_[at(layer, demand.expert)];
    base::require(place.last != now_, "expert policy", "expert {} is asked for twice", demand.expert);
    place.count += weight_ * static_cast<double>(demand.tokens) + (1 - weight_) * static_cast<double>(demand.warm);
    place.last = now_;
    if (demand.warm > 0) place.warm_in = step_;
    const auto c = static_cast<size_t>(shape_.class_of(layer, demand.expert));
    if (place.slot == kNone) {
      missing.push_back(&demand);
      continue;
    }
    Slot& slot = slots_[static_cast<size_t>(place.slot)];
    slot.leased_by = static_cast<int32_t>(layer);
    if (prompt && demand.warm > 0 && slot.in_ring && staying[c] < share_of(c)) {
      slot.in_ring = false, ++staying[c];
      std::erase(ring_[c], place.slot);
    }
    plan.uses.push_back({.expert = demand.expert, .slot = place.slot, .hit = true});
  }
  // Where the last tokens of a prompt want more than the slots hold, each layer keeps its share, of those that most of
  // them want: otherwise the last layers would take what the first have kept, and every prompt would read nearly all.
  std::vector<char> passes(missing.size());
  std::vector<size_t> by_warm(missing.size());
  std::iota(by_warm.begin(), by_warm.end(), size_t{0});
  if (prompt)
    std::stable_sort(by_warm.begin(), by_warm.end(),
                     [&](size_t a, size_t b) { return missing[a]->warm > missing[b]->warm; });
  for (const size_t m : by_warm) {
    const auto c = static_cast<size_t>(shape_.class_of(layer, missing[m]->expert));
    passes[m] = prompt && (missing[m]->warm == 0 || kept[c] + staying[c] >= share_of(c));
    ++(passes[m] ? passing : kept)[c];
  }
  plan.hits = std::ssize(plan.uses);
  plan.uses.reserve(demands.size());
  (prompt ? prompt_ : decode_).hits += plan.hits, (prompt ? prompt_ : decode_).misses += std::ssize(missing);

  // All victims are chosen now, before anything of this plan is read: by the demands alone, never by what arrives
  // first.
  std::vector<std::vector<int32_t>> chosen(classes);
  std::vector<size_t> next(classes, 0);
  std::vector<int32_t> again(classes, 0);  // the first use of this plan whose slot can be used once more
  for (size_t c = 0; c < classes; ++c) {
    if (kept[c] + passing[c] == 0) continue;
    int64_t wanted = kept[c];
    if (passing[c] > 0) {  // empty slots, and what the ring lacks
      int64_t empty = 0;
      for (int32_t i = first_slot_[c]; i < first_slot_[c + 1]; ++i) {
        const Slot& slot = slots_[static_cast<size_t>(i)];
        empty += slot.layer == kNone && free(slot);
      }
      const int64_t room = std::max<int64_t>(empty - kept[c], 0);
      wanted += std::min(passing[c], room + wider_ring(c, layer, passing[c], pieces));
    }
    chosen[c] = victims(static_cast<int64_t>(c), layer, wanted, prompt, pieces);
  }
  std::vector<int32_t> last_use(slots_.size(), kNone);  // in this plan
  for (size_t u = 0; u < plan.uses.size(); ++u)
    last_use[static_cast<size_t>(plan.uses[u].slot)] = static_cast<int32_t>(u);
  for (size_t m = 0; m < missing.size(); ++m) {
    const ExpertDemand* const demand = missing[m];
    const auto c = static_cast<size_t>(shape_.class_of(layer, demand->expert));
    const bool pass = passes[m];
    std::vector<int32_t>& ring = ring_[c];
    Use use{.expert = demand->expert};
    if (pass)
      --passing[c];
    else
      --kept[c];
    // A miss that passes leaves enough of the chosen slots to those that stay.
    const int64_t left = std::ssize(chosen[c]) - static_cast<int64_t>(next[c]);
    if (left > (pass ? kept[c] : 0)) {
      use.slot = chosen[c][next[c]++];
      if (Slot& slot = slots_[static_cast<size_t>(use.slot)]; pass && slot.layer != kNone)
        slot.in_ring = true, ring.push_back(use.slot);
    } else if (const auto oldest = std::find_if(ring.begin(), ring.end(),
                                                [&](int32_t slot) {
                                                  const int32_t by = slots_[static_cast<size_t>(slot)].leased_by;
                                                  return by == kNone || by == layer;
                                                });
               oldest != ring.end()) {
      use.slot = *oldest;
      std::rotate(oldest, oldest + 1, ring.end());
    } else {  // the slots of this plan's own experts, in their order
      while (again[c] < std::ssize(plan.uses) &&
             shape_.class_of(layer, plan.uses[static_cast<size_t>(again[c])].expert) != static_cast<int32_t>(c))
        ++again[c];
      if (again[c] < std::ssize(plan.uses)) {
        use.slot = plan.uses[static_cast<size_t>(again[c]++)].slot;
      } else {  // none yet: one that was to stay, which others then pass through as well
        base::require(left > 0, "expert policy", "every slot is leased by another layer");
        use.slot = chosen[c][next[c]++];
        slots_[static_cast<size_t>(use.slot)].in_ring = true, ring.push_back(use.slot);
      }
    }
    int32_t& before = last_use[static_cast<size_t>(use.slot)];
    use.after = before, before = static_cast<int32_t>(plan.uses.size());
    fill(use, layer);
    plan.uses.push_back(use);
  }
  return plan;
}

void ExpertPolicy::release(int64_t layer) {
  for (Slot& slot : slots_)
    if (slot.leased_by == layer) slot.leased_by = kNone;
}

ExpertPolicy::Prefetch ExpertPolicy::prefetch(int64_t layer, int32_t expert) {
  const int32_t c = shape_.class_of(layer, expert);
  if (c < 0 || slot_of(layer, expert) != kNone) return {};
  const std::vector<int32_t> victim = victims(c, layer, 1, false, Pieces::one);
  if (victim.empty()) return {};
  Slot& slot = slots_[static_cast<size_t>(victim.front())];
  const Prefetch taken{victim.front(), slot.layer, slot.expert};
  put(taken.slot, layer, expert);
  slot.arriving = true;
  ++prefetches_;
  return taken;
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
