#include "ops/moe/grouped.h"

#include <algorithm>

#include "base/error.h"

namespace coterie::ops {

int64_t fullest(const RoutingPlan& plan) {
  int64_t most = 0;
  for (int64_t e = 0; e < plan.experts(); ++e) most = std::max<int64_t>(most, std::ssize(plan.tokens_of(e)));
  return most;
}

void cut_pieces(const RoutingPlan& plan, int64_t e, int64_t rows, int64_t piece_rows, int64_t piece_tokens,
                Piece* pieces, int64_t& count) {
  const int64_t first = plan.expert_offset[static_cast<size_t>(e)],
                last = plan.expert_offset[static_cast<size_t>(e) + 1];
  const int64_t slots = last - first, cuts = (slots + piece_tokens - 1) / piece_tokens;
  for (int64_t begin = 0; begin < rows; begin += piece_rows)
    for (int64_t cut = 0; cut < cuts; ++cut)
      pieces[count++] = {e, begin, std::min(begin + piece_rows, rows), first + slots * cut / cuts,
                         first + slots * (cut + 1) / cuts};
}

void check_plan(const RoutingPlan& plan, int64_t tokens, size_t experts, std::string_view where) {
  base::require(plan.tokens == tokens, where, "the plan is for {} tokens, the batch has {}", plan.tokens, tokens);
  base::require(plan.experts() == static_cast<int64_t>(experts), where, "the plan is for {} experts, {} are given",
                plan.experts(), experts);
}

}  // namespace coterie::ops
