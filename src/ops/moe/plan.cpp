#include "ops/moe/plan.h"

#include "base/error.h"

namespace coterie::ops {

RoutingPlan make_plan(std::span<const int32_t> ids, std::span<const float> weights, int64_t tokens,
                      int64_t experts_per_token, int64_t experts) {
  constexpr std::string_view where = "make_plan";
  base::require(tokens >= 0 && experts_per_token >= 0 && experts >= 0, where,
                "tokens {}, experts per token {}, experts {}", tokens, experts_per_token, experts);
  const int64_t choices = tokens * experts_per_token;
  base::require(static_cast<int64_t>(ids.size()) == choices && ids.size() == weights.size(), where,
                "expected {} ids and weights ({} tokens x {}), found {} and {}", choices, tokens, experts_per_token,
                ids.size(), weights.size());

  RoutingPlan plan;
  plan.tokens = tokens;
  plan.expert_offset.assign(static_cast<size_t>(experts) + 1, 0);
  plan.token_offset.assign(static_cast<size_t>(tokens) + 1, 0);
  for (size_t i = 0; i < ids.size(); ++i) {
    const int32_t id = ids[i];
    base::require(id >= -1 && id < experts, where, "choice {} is expert {} of {}", i, id, experts);
    if (id < 0) continue;
    ++plan.expert_offset[static_cast<size_t>(id) + 1];
    ++plan.token_offset[i / static_cast<size_t>(experts_per_token) + 1];
  }
  for (size_t e = 1; e < plan.expert_offset.size(); ++e) plan.expert_offset[e] += plan.expert_offset[e - 1];
  for (size_t t = 1; t < plan.token_offset.size(); ++t) plan.token_offset[t] += plan.token_offset[t - 1];

  const size_t slots = static_cast<size_t>(plan.expert_offset.back());
  plan.slot_token.resize(slots), plan.slot_weight.resize(slots), plan.token_slot.resize(slots);
  std::vector<int32_t> next(plan.expert_offset.begin(), plan.expert_offset.end() - 1);
  size_t position = 0;  // choices in order are token_slot's order
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) continue;
    const int32_t slot = next[static_cast<size_t>(ids[i])]++;
    plan.slot_token[static_cast<size_t>(slot)] = static_cast<int32_t>(i / static_cast<size_t>(experts_per_token));
    plan.slot_weight[static_cast<size_t>(slot)] = weights[i];
    plan.token_slot[position++] = slot;
  }
  return plan;
}

RoutingPlan of_first_experts(const RoutingPlan& plan, int64_t experts) {
  base::require(experts >= 0 && experts <= plan.experts(), "of_first_experts", "{} of {} experts", experts,
                plan.experts());
  RoutingPlan part;
  part.tokens = plan.tokens, part.weight_gradient = plan.weight_gradient;
  part.expert_offset.assign(plan.expert_offset.begin(), plan.expert_offset.begin() + experts + 1);
  const int32_t slots = part.expert_offset.back();
  part.slot_token.assign(plan.slot_token.begin(), plan.slot_token.begin() + slots);
  part.slot_weight.assign(plan.slot_weight.begin(), plan.slot_weight.begin() + slots);
  part.token_offset = {0};
  for (size_t t = 0; t + 1 < plan.token_offset.size(); ++t) {
    for (int32_t c = plan.token_offset[t]; c < plan.token_offset[t + 1]; ++c)
      if (const int32_t slot = plan.token_slot[static_cast<size_t>(c)]; slot < slots) part.token_slot.push_back(slot);
    part.token_offset.push_back(static_cast<int32_t>(part.token_slot.size()));
  }
  return part;
}

const RoutingPlan& dense_plan(int64_t tokens, RoutingPlan& storage) {
  base::require(tokens >= 0, "dense_plan", "tokens {}", tokens);
  if (storage.tokens == tokens && storage.experts() == 1) return storage;  // made by an earlier call
  storage = {};
  storage.tokens = tokens;
  const size_t count = static_cast<size_t>(tokens);
  storage.expert_offset = {0, static_cast<int32_t>(tokens)};
  storage.slot_weight.assign(count, 1.0f);
  storage.slot_token.resize(count), storage.token_slot.resize(count), storage.token_offset.resize(count + 1);
  for (int32_t t = 0; t < tokens; ++t) {
    const size_t i = static_cast<size_t>(t);
    storage.slot_token[i] = storage.token_slot[i] = storage.token_offset[i] = t;
  }
  storage.token_offset[count] = static_cast<int32_t>(tokens);
  return storage;
}

}  // namespace coterie::ops
