#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/moe/plan.h"

namespace coterie::ops {

/// The slots of neighbouring experts, and the rows that they read, each once: what goes to the rank that owns these
/// experts. Slots are in the order of experts, so they are neighbours in the whole plan, too.
struct PlanPart {
  int64_t first_slot = 0, end_slot = 0;  // of the whole plan
  std::vector<int32_t> token;            // [rows] of the whole plan's tokens, ascending
  std::vector<int32_t> expert_offset;    // [experts + 1], into slot_row
  std::vector<int32_t> slot_row;         // [slots], into token

  int64_t slots() const { return end_slot - first_slot; }
  int64_t rows() const { return std::ssize(token); }
};

/// The part of experts [first, end).
PlanPart part_of_plan(const RoutingPlan& plan, int64_t first, int64_t end);

/// Such a part as a plan over its own rows, for who computes it: of `experts`, of which those from `first` on have
/// slots. Without weights, and without an order in which slots are added up. Throws bad_input, saying what is wrong,
/// where offsets or rows do not fit: they come from another process.
RoutingPlan plan_of_part(std::span<const int32_t> expert_offset, std::span<const int32_t> slot_row, int64_t rows,
                         int64_t first, int64_t experts);

}  // namespace coterie::ops
