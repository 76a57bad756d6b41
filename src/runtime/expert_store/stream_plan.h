#pragma once

#include <cstdint>
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
  int64_t process = 0;  // code, tokenizer, decoded vectors
  int64_t dense = 0;    // weights that every token reads
  int64_t cache = 0;    // of keys and values, and recurrent states
  int64_t scratch = 0;  // of a step
  int64_t sum() const { return process + dense + cache + scratch; }
};

/// Scratch of experts that come in groups, beside scratch_bytes(): what all slots' experts give is held at once.
int64_t group_scratch_bytes(const models::ModelSpec& spec, int64_t tokens);

/// Slots for experts in `bytes` of memory, by size class, in proportion to what the classes hold. No class gets more
/// than it has experts, or fewer than two layers' worth of a token's experts; throws out_of_memory, with the figures,
/// where that does not fit. `layout` is fitted.
std::vector<int64_t> plan_slots(const ExpertLayout& layout, const models::ModelSpec& spec, const MemoryBudget& budget,
                                const StreamNeeds& needs);
/// The same for so many bytes of slots; never fewer than the floor.
std::vector<int64_t> divide_slots(const ExpertLayout& layout, const models::ModelSpec& spec, int64_t bytes);
/// Bytes of the fewest slots a model runs with.
int64_t floor_bytes(const ExpertLayout& layout, const models::ModelSpec& spec);
/// Experts that one token is routed to, in all layers.
int64_t experts_of_token(const models::ModelSpec& spec);

}  // namespace coterie::runtime
