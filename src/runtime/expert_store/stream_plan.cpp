#include "runtime/expert_store/stream_plan.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/memory.h"

namespace coterie::runtime {

using base::human_bytes;

namespace {

/// The fewest slots of each class: two layers' worth of a token's experts.
std::vector<int64_t> fewest(const ExpertLayout& layout, const models::ModelSpec& spec) {
  int64_t k = 1;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) k = std::max(k, moe->router.experts_per_token);
  std::vector<int64_t> slots;
  for (const int64_t experts : layout.class_experts) slots.push_back(std::min(experts, 2 * k));
  return slots;
}

int64_t bytes_of(const ExpertLayout& layout, const std::vector<int64_t>& slots) {
  int64_t bytes = 0;
  for (size_t c = 0; c < slots.size(); ++c) bytes += slots[c] * layout.slot_bytes[c];
  return bytes;
}

}  // namespace

std::string MemoryBudget::words() const {
  if (given) return "the memory given, " + human_bytes(bytes);
  return fmt::format("the memory there is, {} with {} left free", human_bytes(bytes), human_bytes(reserve));
}

MemoryBudget memory_budget(int64_t given) {
  if (given < 0) base::fail(base::ErrorKind::bad_input, "memory", "is {}, expected a number of bytes above 0", given);
  if (given > 0) return {.bytes = given, .given = true, .reserve = 0};
  // What this process holds already is there for it too.
  const int64_t there = std::min(base::total_memory(), base::available_memory() + base::resident_memory());
  constexpr int64_t kHalfGigabyte = 500'000'000;
  const int64_t reserve = std::max(there / 20, std::min(kHalfGigabyte, there / 10));
  return {.bytes = there - reserve, .given = false, .reserve = reserve};
}

int64_t group_scratch_bytes(const models::ModelSpec& spec, int64_t tokens) {
  int64_t most = 0;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) {
      const int64_t width = moe->latent > 0 ? moe->latent : spec.width;
      most = std::max(most, 2 * tokens * moe->router.experts_per_token * width * static_cast<int64_t>(sizeof(float)));
    }
  return most;
}

int64_t experts_of_token(const models::ModelSpec& spec) {
  int64_t sum = 0;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) sum += moe->router.experts_per_token;
  return sum;
}

int64_t floor_bytes(const ExpertLayout& layout, const models::ModelSpec& spec) {
  return bytes_of(layout, fewest(layout, spec));
}

std::vector<int64_t> divide_slots(const ExpertLayout& layout, const models::ModelSpec& spec, int64_t bytes) {
  std::vector<int64_t> slots = fewest(layout, spec);
  int64_t left = bytes - bytes_of(layout, slots);
  // In rounds, because a class that is full leaves its part to the others.
  for (bool more = true; more && left > 0;) {
    more = false;
    double waiting = 0;  // bytes of experts without a slot
    for (size_t c = 0; c < slots.size(); ++c)
      waiting += static_cast<double>((layout.class_experts[c] - slots[c]) * layout.slot_bytes[c]);
    const double share = waiting > 0 ? std::min(1.0, static_cast<double>(left) / waiting) : 0;
    for (size_t c = 0; c < slots.size(); ++c) {
      const auto count = std::min(static_cast<int64_t>(share * static_cast<double>(layout.class_experts[c] - slots[c])),
                                  left / layout.slot_bytes[c]);
      if (count <= 0) continue;
      slots[c] += count, left -= count * layout.slot_bytes[c], more = true;
    }
  }
  for (size_t c = 0; c < slots.size(); ++c)  // what rounding has left
    while (slots[c] < layout.class_experts[c] && left >= layout.slot_bytes[c]) ++slots[c], left -= layout.slot_bytes[c];
  return slots;
}

std::vector<int64_t> plan_slots(const ExpertLayout& layout, const models::ModelSpec& spec, const MemoryBudget& budget,
                                const StreamNeeds& needs) {
  const int64_t least = floor_bytes(layout, spec), left = budget.bytes - needs.sum();
  const std::vector<int64_t> slots = fewest(layout, spec);
  const int64_t count = std::accumulate(slots.begin(), slots.end(), int64_t{0});
  if (left < least)
    throw base::Error(
        base::ErrorKind::out_of_memory, "memory",
        fmt::format("reading experts from the disk as they are needed takes at least {}: {} for the weights that every "
                    "token reads, {} of KV cache, {} of scratch, {} of the process itself, and {} for {} experts; {} "
                    "is less",
                    human_bytes(needs.sum() + least), human_bytes(needs.dense), human_bytes(needs.cache),
                    human_bytes(needs.scratch), human_bytes(needs.process), human_bytes(least), count, budget.words()),
        "a smaller `context`, or a model in fewer bits, needs less");
  return divide_slots(layout, spec, left);
}

}  // namespace coterie::runtime
