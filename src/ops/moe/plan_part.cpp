#include "ops/moe/plan_part.h"

#include <algorithm>

#include "base/error.h"

namespace coterie::ops {

PlanPart part_of_plan(const RoutingPlan& plan, int64_t first, int64_t end) {
  PlanPart part;
  part.first_slot = plan.expert_offset[static_cast<size_t>(first)];
  part.end_slot = plan.expert_offset[static_cast<size_t>(end)];
  std::vector<int32_t> row_of(static_cast<size_t>(plan.tokens), -1);
  for (int64_t s = part.first_slot; s < part.end_slot; ++s)
    row_of[static_cast<size_t>(plan.slot_token[static_cast<size_t>(s)])] = 0;
  for (size_t t = 0; t < row_of.size(); ++t) {
    if (row_of[t] < 0) continue;
    row_of[t] = static_cast<int32_t>(part.token.size());
    part.token.push_back(static_cast<int32_t>(t));
  }
  for (int64_t e = first; e <= end; ++e)
    part.expert_offset.push_back(plan.expert_offset[static_cast<size_t>(e)] - static_cast<int32_t>(part.first_slot));
  for (int64_t s = part.first_slot; s < part.end_slot; ++s)
    part.slot_row.push_back(row_of[static_cast<size_t>(plan.slot_token[static_cast<size_t>(s)])]);
  return part;
}

RoutingPlan plan_of_part(std::span<const int32_t> expert_offset, std::span<const int32_t> slot_row, int64_t rows,
                         int64_t first, int64_t experts) {
  const int64_t own = std::ssize(expert_offset) - 1;
  const auto check = [](bool right, const char* what) {
    if (!right) base::fail(base::ErrorKind::bad_input, "a part of a plan", "{}", what);
  };
  check(rows >= 0 && first >= 0 && own >= 0 && first + own <= experts, "is of experts that the layer does not have");
  check(expert_offset.front() == 0 && expert_offset.back() == std::ssize(slot_row) &&
            std::is_sorted(expert_offset.begin(), expert_offset.end()),
        "has slots of no expert");
  check(std::all_of(slot_row.begin(), slot_row.end(), [&](int32_t row) { return row >= 0 && row < rows; }),
        "has slots of no row");
  RoutingPlan plan;
  plan.tokens = rows;
  plan.expert_offset.push_back(0);
  for (int64_t e = 0; e < experts; ++e)
    plan.expert_offset.push_back(expert_offset[static_cast<size_t>(std::clamp<int64_t>(e + 1 - first, 0, own))]);
  plan.slot_token.assign(slot_row.begin(), slot_row.end());
  return plan;
}

}  // namespace coterie::ops
