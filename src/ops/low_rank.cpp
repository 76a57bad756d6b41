#include "ops/low_rank_job.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/rows.h"

namespace coterie::ops {

namespace {

constexpr tensor::DType kFloats = tensor::DType::f32;

const kernels::MatmulKernel& exact(const Context& context) {
  return context.kernels.matmul.exact[static_cast<size_t>(kFloats)];
}

int64_t kernel_bytes(const Context& context, int64_t cols) { return exact(context).scratch_bytes(kFloats, cols); }

constexpr auto kPointer = static_cast<int64_t>(sizeof(const std::byte*));

}  // namespace

// A composition, so it has its backward pass: A and B are trained where they are listed among the tape's parameters.
void add_low_rank(Context& given, ConstMatrix x, const LowRank& low, Matrix y) {
  Context context = given;
  context.precision = Precision::f32;
  const tensor::ArenaScope scratch(context.arena);
  const Matrix inner = context.arena.matrix(x.rows, low.a.rows), added = context.arena.matrix(y.rows, y.cols);
  matmul(context, x, low.a, nullptr, inner);
  matmul(context, inner, low.b, nullptr, added);
  add(context, added, y, low.scale);
}

int64_t largest_rank(const RoutingPlan& plan, base::FunctionRef<const LowRank&(int64_t expert)> of) {
  int64_t rank = 0;
  for (int64_t e = 0; e < plan.experts(); ++e)
    if (!plan.tokens_of(e).empty()) rank = std::max(rank, of(e).a.rows);
  return rank;
}

void rows_times_a(Context& context, ConstMatrix x, const RoutingPlan& plan, bool by_slot,
                  base::FunctionRef<const LowRank&(int64_t expert)> of, Matrix low) {
  constexpr int64_t kSlots = 64;
  struct SlotPiece {
    int64_t expert, begin, end;
  };
  std::vector<SlotPiece> pieces;
  int64_t work = 0;
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const int64_t first = plan.expert_offset[static_cast<size_t>(e)],
                  last = plan.expert_offset[static_cast<size_t>(e) + 1];
    const LowRank& over = of(e);
    if (first == last || !over) continue;
    base::require(over.a.cols == x.cols && over.a.dtype == kFloats && over.a.rows == over.b.cols, "low rank",
                  "A [{}, {}] and B [{}, {}] for {} inputs", over.a.rows, over.a.cols, over.b.rows, over.b.cols,
                  x.cols);
    for (int64_t s = first; s < last; s += kSlots) pieces.push_back({e, s, std::min(s + kSlots, last)});
    work += (last - first) * over.a.rows * over.a.cols;
  }
  const tensor::ArenaScope scope(context.arena);
  const WorkerScratch scratch(context, kernel_bytes(context, x.cols)), pointers(context, kSlots * kPointer);
  const auto run = [&](int64_t index, int worker) {
    const SlotPiece& piece = pieces[static_cast<size_t>(index)];
    const LowRank& over = of(piece.expert);
    auto** const rows = reinterpret_cast<const std::byte**>(pointers.of(worker));
    for (int64_t s = piece.begin; s < piece.end; ++s)
      rows[s - piece.begin] =
          reinterpret_cast<const std::byte*>(x.row(by_slot ? s : plan.slot_token[static_cast<size_t>(s)]));
    const Matrix y = low.row_range(piece.begin, piece.end).col_range(0, over.a.rows);
    exact(context).run(task_of(context, over.a, rows, y.rows, y, scratch.of(worker), {}));
  };
  if (work < kParallelElements) {
    for (int64_t i = 0; i < std::ssize(pieces); ++i) run(i, 0);
  } else {
    context.pool.each(std::ssize(pieces), run);
  }
}

LowRankAdder::LowRankAdder(Context& context, int64_t rank, int64_t rows)
    : context_(context),
      rows_(rows),
      kernel_scratch_(context, rank == 0 ? 0 : kernel_bytes(context, rank)),
      pointers_(context, rank == 0 ? 0 : kSlots * kPointer),
      tile_(context, rank == 0 ? 0 : kSlots * rows * static_cast<int64_t>(sizeof(float))) {}

void LowRankAdder::add(int worker, const LowRank& over, ConstMatrix low, int64_t begin, int64_t end, Matrix y) const {
  const tensor::Weight b = over.b.row_range(begin, end);
  auto** const rows = reinterpret_cast<const std::byte**>(pointers_.of(worker));
  const Matrix tile(reinterpret_cast<float*>(tile_.of(worker)), kSlots, end - begin);
  for (int64_t s = 0; s < y.rows; s += kSlots) {
    const int64_t count = std::min(kSlots, y.rows - s);
    for (int64_t i = 0; i < count; ++i) rows[i] = reinterpret_cast<const std::byte*>(low.row(s + i));
    exact(context_).run(task_of(context_, b, rows, count, tile, kernel_scratch_.of(worker), {}));
    for (int64_t i = 0; i < count; ++i)
      context_.kernels.vector.add_scaled(tile.row(i), over.scale, y.row(s + i), y.cols);
  }
}

}  // namespace coterie::ops
