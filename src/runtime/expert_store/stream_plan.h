#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "families/open.h"
#include "runtime/expert_store/expert_layout.h"

namespace coterie::runtime {

/// How many bytes a process may have resident in all.
struct MemoryBudget {
  int64_t bytes = 0;
  bool given = false;   // by the user; otherwise from what the machine and its cgroup have
  int64_t reserve = 0;  // left free of what there is, for other programs; 0 for a budget that was given

  std::string words() const;  // "the memory given, 8.0 GB"
};
/// `given` bytes, or where that is 0 the smaller of what is available and the cgroup's limit, less a reserve.
MemoryBudget memory_budget(int64_t given);

/// What a model's process needs besides its routed experts, in bytes.
struct StreamNeeds {
  int64_t process = 0;  // code, tokenizer, decoded vectors, stacks and buffers of those who read
  int64_t dense = 0;    // weights that every token reads
  int64_t cache = 0;    // of keys and values, and recurrent states
  int64_t scratch = 0;  // of a step
  int64_t sum() const { return process + dense + cache + scratch; }
};

/// What a process of this model holds besides routed experts. `held`: its resident memory before any weight is read,
/// without the files' own pages; `dense`: bytes of its other weights; `cache`: of keys, values and states; a step has
/// `step_tokens` tokens. The one account that an engine is planned by and that `coterie inspect --memory` shows.
StreamNeeds stream_needs(const models::ModelSpec& spec, int64_t held, int64_t dense, int64_t cache, int64_t step_tokens,
                         int64_t threads);
/// Positions of cache to leave room for where nobody asked for a context: a twelfth of the memory's worth, 1,024 to
/// 32,768, and no more than the model has.
int64_t planned_positions(int64_t memory, int64_t position_bytes, int64_t context);

/// How experts share memory: those of one class are of one size.
struct SlotClasses {
  std::vector<int64_t> slot_bytes = {}, experts = {};  // of each class: of one slot, and how many experts there are
  std::vector<int64_t> of_a_layer = {};                // how many of the class a layer has at most
};
/// Of a layout that is fitted.
SlotClasses slot_classes(const ExpertLayout& layout);

struct StreamPlan {
  std::vector<int64_t> slots = {};  // for experts, of each class
  // Tokens of a prompt that blocks take one after the other (layers::PiecewiseSource), for which room is left; 0: no
  // more than a step's.
  int64_t prompt_tokens = 0;
};
/// Divides `budget`: slots in proportion to what the classes hold. No class gets more than it has experts, or fewer
/// than two layers' worth of a token's experts; throws out_of_memory, with the figures, where that does not fit.
StreamPlan plan_stream(const SlotClasses& classes, const models::ModelSpec& spec, const MemoryBudget& budget,
                       const StreamNeeds& needs, int64_t positions, int64_t step_tokens);
/// Slots in so many bytes; never fewer than the floor.
std::vector<int64_t> divide_slots(const SlotClasses& classes, const models::ModelSpec& spec, int64_t bytes);
std::vector<int64_t> divide_slots(const ExpertLayout& layout, const models::ModelSpec& spec, int64_t bytes);
/// Whether one layer's experts fit, and half as many again: then a prompt is better read layer by layer.
bool hold_a_layer(const SlotClasses& classes, std::span<const int64_t> slots);
/// The fewest slots of each class that a model runs with: two layers' worth of a token's experts.
std::vector<int64_t> fewest_slots(const SlotClasses& classes, const models::ModelSpec& spec);
int64_t slot_memory(const SlotClasses& classes, std::span<const int64_t> slots);
/// Experts that one token is routed to, in all layers.
int64_t experts_of_token(const models::ModelSpec& spec);

}  // namespace coterie::runtime
