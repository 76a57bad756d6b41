#pragma once

#include <string_view>

#include "ops/matmul_job.h"
#include "ops/moe/plan.h"

// Inside the room: what the grouped matmuls share.
namespace coterie::ops {

/// Most slots that one expert has.
int64_t fullest(const RoutingPlan& plan);

/// Expert e's slots times `rows` outputs, cut into pieces of at most piece_rows x piece_tokens, behind the `count`
/// there are.
void cut_pieces(const RoutingPlan& plan, int64_t e, int64_t rows, int64_t piece_rows, int64_t piece_tokens,
                Piece* pieces, int64_t& count);

/// Throws internal unless the plan is for so many tokens and experts.
void check_plan(const RoutingPlan& plan, int64_t tokens, size_t experts, std::string_view where);

}  // namespace coterie::ops
