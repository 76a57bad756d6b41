#pragma once

#include <cstdint>

#include "base/function_ref.h"
#include "ops/matmul.h"
#include "ops/matmul_job.h"
#include "ops/moe/plan.h"

// Inside the room: what the grouped matmuls do with weights that have a LowRank over them.
namespace coterie::ops {

/// Largest rank among the experts that the plan sends tokens to; 0 when none of them has a LoRA.
int64_t largest_rank(const RoutingPlan& plan, base::FunctionRef<const LowRank&(int64_t expert)> of);

/// low[s, 0..r) = x[row] · A_eᵀ for each slot s of an expert e with a LoRA; `row` is the slot's token, or with
/// `by_slot` s itself. low [slots, largest rank]; rows of other experts are left as they are.
void rows_times_a(Context& context, ConstMatrix x, const RoutingPlan& plan, bool by_slot,
                  base::FunctionRef<const LowRank&(int64_t expert)> of, Matrix low);

/// y += scale · low · Bᵀ for pieces of a job, with scratch for each worker of its own.
class LowRankAdder {
 public:
  /// For adapters of at most `rank` and pieces of at most `rows` rows of B; nothing is taken for a rank of 0.
  LowRankAdder(Context& context, int64_t rank, int64_t rows);
  /// y [slots, end - begin] += the rows [begin, end) of B with low [slots, ≥ r].
  void add(int worker, const LowRank& over, ConstMatrix low, int64_t begin, int64_t end, Matrix y) const;

 private:
  static constexpr int64_t kSlots = 64;  // at a time
  const Context& context_;
  int64_t rows_;
  WorkerScratch kernel_scratch_, pointers_, tile_;
};

}  // namespace coterie::ops
