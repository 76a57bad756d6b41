#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace coterie::ops {

/// Which tokens go to which experts, for a batch of N tokens and E experts, in CSR form. The router makes it; grouped
/// matmul, dispatch over ranks, expert prefetch, balance losses, traces and the page read the same bytes.
///
/// A slot is one (token, expert) pair. Slots are sorted by expert, within an expert by token.
struct RoutingPlan {
  int64_t tokens = 0;                  // N
  std::vector<int32_t> expert_offset;  // [E+1]: the slots of expert e are [expert_offset[e], expert_offset[e+1])
  std::vector<int32_t> slot_token;     // [slots]
  std::vector<float> slot_weight;      // [slots]: what the expert's output is multiplied by
  std::vector<int32_t> token_offset;   // [N+1], into token_slot
  std::vector<int32_t> token_slot;     // [slots]: the slots of a token in the order the router chose them (best first);
                                       // combine adds in this order, so the sum does not depend on the batch
  std::vector<int32_t> dropped;  // the tokens that lost assignments to capacity, one for each; empty when dropless
  int64_t overflowed = 0;        // assignments that capacity sent on to a token's next best expert
  // [slots]: while a tape is open, what the loss's gradient by slot_weight is added to in the backward pass, for the
  // router that made the plan. Null: nobody wants it.
  float* weight_gradient = nullptr;

  int64_t experts() const { return expert_offset.empty() ? 0 : static_cast<int64_t>(expert_offset.size()) - 1; }
  int64_t slots() const { return static_cast<int64_t>(slot_token.size()); }
  std::span<const int32_t> tokens_of(int64_t expert) const {
    return {slot_token.data() + expert_offset[static_cast<size_t>(expert)],
            slot_token.data() + expert_offset[static_cast<size_t>(expert) + 1]};
  }
};

/// Sorts choices into a plan (a counting sort). `ids` and `weights` are [N, K], best first; an id of -1 means no
/// choice.
RoutingPlan make_plan(std::span<const int32_t> ids, std::span<const float> weights, int64_t tokens,
                      int64_t experts_per_token, int64_t experts);
/// Of a plan what goes to its first `experts`: their slots come first, so that numbers of slots, and the memory of
/// their weights' gradient, stay.
RoutingPlan of_first_experts(const RoutingPlan& plan, int64_t experts);
/// Every token to expert 0 with weight 1: a dense FFN is the one-expert MoE.
const RoutingPlan& dense_plan(int64_t tokens, RoutingPlan& storage);

}  // namespace coterie::ops
