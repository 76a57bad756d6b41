#include "runtime/expert_store/stream_plan.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/memory.h"
#include "runtime/memory_plan.h"

namespace coterie::runtime {

using base::human_bytes;

namespace {

// What a process comes to hold after it was measured: stacks and heaps of the threads that compute and read, staging,
// pages of code that were not touched before; and what the last large page of a piece of memory goes beyond it.
constexpr int64_t kLater = 6 << 20;
// The measurement is rounded up to this, so that two programs that open the same model come to the same plan.
constexpr int64_t kRounding = 4 << 20;
// A 50th of the memory is left for rows of long prompts that wait for their layer.
constexpr int64_t kPromptShare = 50;

// Of a row that waits while its block takes others: the residual stream and what goes with it.
int64_t waiting_row_bytes(const models::ModelSpec& spec) {
  const bool shortcut =
      std::any_of(spec.blocks.begin(), spec.blocks.end(), [](const auto& b) { return b.adds_shortcut; });
  return (1 + (spec.shared.empty() ? 0 : 1) + (shortcut ? 1 : 0)) * spec.width * static_cast<int64_t>(sizeof(float));
}

// Scratch of experts that come in groups, beside scratch_bytes(): what all slots' experts give is held at once.
int64_t group_scratch_bytes(const models::ModelSpec& spec, int64_t tokens) {
  int64_t most = 0;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) {
      const int64_t width = moe->latent > 0 ? moe->latent : spec.width;
      most = std::max(most, 2 * tokens * moe->router.experts_per_token * width * static_cast<int64_t>(sizeof(float)));
    }
  return most;
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

StreamNeeds stream_needs(const models::ModelSpec& spec, int64_t held, int64_t dense, int64_t cache, int64_t step_tokens,
                         int64_t threads) {
  const int64_t process = (held + kRounding - 1) / kRounding * kRounding + kLater;
  const int64_t scratch =
      scratch_bytes(spec, step_tokens, 1, static_cast<int>(threads)) + group_scratch_bytes(spec, step_tokens);
  return {.process = process, .dense = dense, .cache = cache, .scratch = scratch};
}

int64_t planned_positions(int64_t memory, int64_t position_bytes, int64_t context) {
  if (position_bytes == 0) return context;
  return std::min(context, std::clamp<int64_t>(memory / 12 / position_bytes, 1024, 32768));
}

int64_t experts_of_token(const models::ModelSpec& spec) {
  int64_t sum = 0;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) sum += moe->router.experts_per_token;
  return sum;
}

SlotClasses slot_classes(const ExpertLayout& layout) {
  SlotClasses classes{layout.slot_bytes, layout.class_experts, std::vector<int64_t>(layout.slot_bytes.size())};
  for (const ExpertLayout::Layer& layer : layout.layers) {
    std::vector<int64_t> here(layout.slot_bytes.size());
    for (const StoredExpert& expert : layer.experts)
      if (!expert.parts.empty()) ++here[static_cast<size_t>(expert.size_class)];
    for (size_t c = 0; c < here.size(); ++c) classes.of_a_layer[c] = std::max(classes.of_a_layer[c], here[c]);
  }
  return classes;
}

std::vector<int64_t> fewest_slots(const SlotClasses& classes, const models::ModelSpec& spec) {
  int64_t k = 1;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) k = std::max(k, moe->router.experts_per_token);
  std::vector<int64_t> slots;
  for (const int64_t experts : classes.experts) slots.push_back(std::min(experts, 2 * k));
  return slots;
}

int64_t slot_memory(const SlotClasses& classes, std::span<const int64_t> slots) {
  return std::inner_product(slots.begin(), slots.end(), classes.slot_bytes.begin(), int64_t{0});
}

bool hold_a_layer(const SlotClasses& classes, std::span<const int64_t> slots) {
  for (size_t c = 0; c < slots.size(); ++c)
    if (slots[c] < std::min(classes.of_a_layer[c] * 3 / 2, classes.experts[c])) return false;
  return true;
}

std::vector<int64_t> divide_slots(const SlotClasses& classes, const models::ModelSpec& spec, int64_t bytes) {
  std::vector<int64_t> slots = fewest_slots(classes, spec);
  int64_t left = bytes - slot_memory(classes, slots);
  // In rounds, because a class that is full leaves its part to the others.
  for (bool more = true; more && left > 0;) {
    more = false;
    double waiting = 0;  // bytes of experts without a slot
    for (size_t c = 0; c < slots.size(); ++c)
      waiting += static_cast<double>((classes.experts[c] - slots[c]) * classes.slot_bytes[c]);
    const double share = waiting > 0 ? std::min(1.0, static_cast<double>(left) / waiting) : 0;
    for (size_t c = 0; c < slots.size(); ++c) {
      const auto count = std::min(static_cast<int64_t>(share * static_cast<double>(classes.experts[c] - slots[c])),
                                  left / classes.slot_bytes[c]);
      if (count <= 0) continue;
      slots[c] += count, left -= count * classes.slot_bytes[c], more = true;
    }
  }
  for (size_t c = 0; c < slots.size(); ++c)  // what rounding has left
    while (slots[c] < classes.experts[c] && left >= classes.slot_bytes[c]) ++slots[c], left -= classes.slot_bytes[c];
  return slots;
}

std::vector<int64_t> divide_slots(const ExpertLayout& layout, const models::ModelSpec& spec, int64_t bytes) {
  return divide_slots(slot_classes(layout), spec, bytes);
}

StreamPlan plan_stream(const SlotClasses& classes, const models::ModelSpec& spec, const MemoryBudget& budget,
                       const StreamNeeds& needs, int64_t positions, int64_t step_tokens) {
  const std::vector<int64_t> fewest = fewest_slots(classes, spec);
  const int64_t least = slot_memory(classes, fewest), left = budget.bytes - needs.sum();
  if (left < least)
    throw base::Error(
        base::ErrorKind::out_of_memory, "memory",
        fmt::format("reading experts from the disk as they are needed takes at least {}: {} for the weights that every "
                    "token reads, {} of KV cache, {} of scratch, {} of the process itself, and {} for {} experts; {} "
                    "is less",
                    human_bytes(needs.sum() + least), human_bytes(needs.dense), human_bytes(needs.cache),
                    human_bytes(needs.scratch), human_bytes(needs.process), human_bytes(least),
                    std::accumulate(fewest.begin(), fewest.end(), int64_t{0}), budget.words()),
        "a smaller `context`, or a model in fewer bits, needs less");
  const int64_t row = waiting_row_bytes(spec);
  const int64_t rows = std::min(budget.bytes / kPromptShare / row, positions) / step_tokens * step_tokens;
  if (rows > step_tokens && left - rows * row >= least) {
    StreamPlan with{divide_slots(classes, spec, left - rows * row), rows};
    if (hold_a_layer(classes, with.slots)) return with;
  }
  return {divide_slots(classes, spec, left), 0};
}

}  // namespace coterie::runtime
