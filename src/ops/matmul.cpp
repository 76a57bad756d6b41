#include "ops/matmul.h"

#include <algorithm>

#include "base/error.h"
#include "ops/gated.h"
#include "ops/gradients.h"
#include "ops/matmul_job.h"

namespace coterie::ops {

namespace {

/// `next`: the rows that the same worker will probably read after these.
kernels::MatmulTask task_of(const Weight& w, const std::byte* const* x, int64_t tokens, Matrix y, std::byte* scratch,
                            const Weight& next) {
  kernels::MatmulTask task;
  task.weights = w.data, task.dtype = w.dtype, task.row_stride = w.row_stride, task.rows = w.rows, task.cols = w.cols;
  task.x = x, task.tokens = tokens;
  task.y = y.data, task.y_stride = y.stride;
  task.scratch = scratch;
  task.next = next.data, task.next_bytes = next.rows * next.row_stride;
  return task;
}

void fill_zero(Matrix y) {
  for (int64_t t = 0; t < y.rows; ++t) std::fill_n(y.row(t), y.cols, 0.0f);
}

/// Most slots that one expert has.
int64_t fullest(const RoutingPlan& plan) {
  int64_t most = 0;
  for (int64_t e = 0; e < plan.experts(); ++e) most = std::max<int64_t>(most, std::ssize(plan.tokens_of(e)));
  return most;
}

void check_plan(const RoutingPlan& plan, int64_t tokens, size_t experts, std::string_view where) {
  base::require(plan.tokens == tokens, where, "the plan is for {} tokens, the batch has {}", plan.tokens, tokens);
  base::require(plan.experts() == static_cast<int64_t>(experts), where, "the plan is for {} experts, {} are given",
                plan.experts(), experts);
}

}  // namespace

void matmul(Context& context, ConstMatrix x, const Weight& w, const float* bias, Matrix y) {
  const MatmulTarget target{w, bias, y};
  matmul_each(context, x, {&target, 1});
}

void matmul_each(Context& context, ConstMatrix x, std::span<const MatmulTarget> targets) {
  constexpr std::string_view where = "matmul";
  if (context.tape) record_matmul(*context.tape, x, targets);
  const tensor::ArenaScope scope(context.arena);
  PreparedRows prepared(context, x);
  int64_t scratch_bytes = 0, total_rows = 0;
  double total_bytes = 0;
  for (const MatmulTarget& target : targets) {
    const kernels::MatmulKernel& kernel = kernel_of(context, target.w, x.cols, where);
    base::require(target.y.rows == x.rows && target.y.cols == target.w.rows, where,
                  "x [{}, {}] and weight [{}, {}] make [{}, {}], y is [{}, {}]", x.rows, x.cols, target.w.rows,
                  target.w.cols, x.rows, target.w.rows, target.y.rows, target.y.cols);
    prepared.need(kernel.form);
    scratch_bytes = std::max(scratch_bytes, kernel.scratch_bytes(target.w.dtype, x.cols));
    total_rows += target.w.rows;
    total_bytes += static_cast<double>(target.w.bytes());
  }
  if (x.rows == 0 || total_rows == 0) return;
  if (x.cols == 0) {
    for (const MatmulTarget& target : targets) fill_zero(target.y), add_bias(target.y, target.bias);
    return;
  }
  const WorkerScratch scratch(context, scratch_bytes);

  const int64_t piece_rows =
      rows_a_piece(context, total_rows, x.cols, x.rows, total_bytes / static_cast<double>(total_rows));
  // Where the rows make too few pieces for the threads (a router, say), the tokens are cut too.
  const int64_t row_pieces = (total_rows + piece_rows - 1) / piece_rows;
  const int64_t wanted = 2 * int64_t{context.pool.threads()};
  const int64_t cuts = context.pool.threads() == 1 || row_pieces >= wanted
                           ? 1
                           : std::clamp<int64_t>(wanted / row_pieces, 1, std::max<int64_t>(x.rows / 32, 1));
  int64_t count = 0;
  for (const MatmulTarget& target : targets) count += (target.w.rows + piece_rows - 1) / piece_rows * cuts;
  Piece* pieces = context.arena.take<Piece>(count);
  int64_t made = 0;
  for (size_t i = 0; i < targets.size(); ++i)
    for (int64_t begin = 0; begin < targets[i].w.rows; begin += piece_rows)
      for (int64_t cut = 0; cut < cuts; ++cut)
        pieces[made++] = {static_cast<int64_t>(i), begin, std::min(begin + piece_rows, targets[i].w.rows),
                          x.rows * cut / cuts, x.rows * (cut + 1) / cuts};

  const int64_t threads = context.pool.threads();
  run_pieces(context, prepared, count, [&](int64_t index, int worker) {
    const Piece& piece = pieces[index];
    const MatmulTarget& target = targets[static_cast<size_t>(piece.target)];
    const kernels::MatmulKernel& kernel = kernel_of(context, target.w, x.cols, where);
    const Matrix y = target.y.row_range(piece.token_begin, piece.token_end).col_range(piece.begin, piece.end);
    const auto rows_of = [&](const Piece& other) {
      return targets[static_cast<size_t>(other.target)].w.row_range(other.begin, other.end);
    };
    const Weight next = index + threads < count ? rows_of(pieces[index + threads]) : Weight();
    kernel.run(
        task_of(rows_of(piece), prepared.rows(kernel.form) + piece.token_begin, y.rows, y, scratch.of(worker), next));
    add_bias(y, target.bias == nullptr ? nullptr : target.bias + piece.begin);
  });
}

namespace {

// A NaN stays one, as in torch.clamp. `scratch` holds the sigmoids.
void clamped_swiglu(const kernels::VectorKernels& kernels, const GateRule& rule, float* gate, const float* up,
                    float* scratch, int64_t n) {
  const float limit = rule.limit;
  for (int64_t i = 0; i < n; ++i) gate[i] = gate[i] > limit ? limit : gate[i];
  for (int64_t i = 0; i < n; ++i) scratch[i] = rule.alpha * gate[i];
  kernels.sigmoid(scratch, scratch, n);
  for (int64_t i = 0; i < n; ++i) {
    const float above = up[i] > limit ? limit : up[i];
    const float u = above < -limit ? -limit : above;
    gate[i] = (u + 1) * (gate[i] * scratch[i]);
  }
}

}  // namespace

void grouped_gated_matmul(Context& context, ConstMatrix x, const RoutingPlan& plan,
                          std::span<const ExpertInput> experts, const GateRule& rule, Matrix h) {
  refuse_tape(context, "grouped_gated_matmul");  // experts() has a way back
  gated_matmul(context, x, plan, experts, rule, h, {});
}

void gated_matmul(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> experts,
                  const GateRule& rule, Matrix h, const GatedHalves& halves) {
  constexpr std::string_view where = "grouped_gated_matmul";
  check_plan(plan, x.rows, experts.size(), where);
  base::require(h.rows == plan.slots(), where, "h has {} rows, the plan {} slots", h.rows, plan.slots());
  if (plan.slots() == 0) return;
  const tensor::ArenaScope scope(context.arena);
  PreparedRows prepared(context, x);
  int64_t scratch_bytes = 0, total_rows = 0, used = 0;
  double total_bytes = 0;
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const ExpertInput& expert = experts[static_cast<size_t>(e)];
    if (plan.tokens_of(e).empty()) continue;  // its weights may not even be in memory
    base::require(rule.limit == 0 || expert.gate, where, "a clamped SwiGLU of expert {} without a gate", e);
    for (const Weight* w : {&expert.up, &expert.gate}) {
      if (w == &expert.gate && !*w) continue;
      const kernels::MatmulKernel& kernel = kernel_of(context, *w, x.cols, where);
      base::require(w->rows == h.cols, where, "expert {} is [{}, {}], h has {} columns", e, w->rows, w->cols, h.cols);
      prepared.need(kernel.form);
      scratch_bytes = std::max(scratch_bytes, kernel.scratch_bytes(w->dtype, x.cols));
      total_bytes += static_cast<double>(w->bytes());
    }
    total_rows += h.cols;
    ++used;
  }
  if (total_rows == 0) return;
  const int64_t most = fullest(plan);
  const int64_t mean = (plan.slots() + used - 1) / used;
  const int64_t piece_rows =
      std::min(rows_a_piece(context, total_rows, x.cols, mean, total_bytes / static_cast<double>(total_rows)),
               (h.cols + context.kernels.matmul.panel_rows - 1) / context.kernels.matmul.panel_rows *
                   context.kernels.matmul.panel_rows);
  const int64_t expert_pieces = (h.cols + piece_rows - 1) / piece_rows;
  Piece* pieces = context.arena.take<Piece>(used * expert_pieces);
  int64_t count = 0;
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const int64_t first = plan.expert_offset[static_cast<size_t>(e)],
                  last = plan.expert_offset[static_cast<size_t>(e) + 1];
    for (int64_t begin = 0; first < last && begin < h.cols; begin += piece_rows)
      pieces[count++] = {e, begin, std::min(begin + piece_rows, h.cols), first, last};
  }
  const WorkerScratch scratch(context, scratch_bytes);
  const WorkerScratch ups(context, most * piece_rows * static_cast<int64_t>(sizeof(float)));
  const WorkerScratch sigmoids(context, rule.limit == 0 ? 0 : piece_rows * static_cast<int64_t>(sizeof(float)));
  const WorkerScratch pointers(context, most * static_cast<int64_t>(sizeof(const std::byte*)));

  const int64_t threads = context.pool.threads();
  run_pieces(context, prepared, count, [&](int64_t index, int worker) {
    const Piece& piece = pieces[index];
    const ExpertInput& expert = experts[static_cast<size_t>(piece.target)];
    const int64_t tokens = piece.token_end - piece.token_begin, rows = piece.end - piece.begin;
    const Matrix first = h.row_range(piece.token_begin, piece.token_end).col_range(piece.begin, piece.end);
    const Matrix second(reinterpret_cast<float*>(ups.of(worker)), tokens, rows);
    const std::byte** chosen = reinterpret_cast<const std::byte**>(pointers.of(worker));
    const auto multiply = [&](const Weight& w, const float* bias, Matrix y, const Weight& next) {
      const kernels::MatmulKernel& kernel = kernel_of(context, w, x.cols, where);
      const std::byte* const* all = prepared.rows(kernel.form);
      for (int64_t t = 0; t < tokens; ++t) chosen[t] = all[plan.slot_token[static_cast<size_t>(piece.token_begin + t)]];
      kernel.run(task_of(w.row_range(piece.begin, piece.end), chosen, tokens, y, scratch.of(worker), next));
      add_bias(y, bias == nullptr ? nullptr : bias + piece.begin);
    };
    Weight next;
    if (index + threads < count) {
      const Piece& later = pieces[index + threads];
      const ExpertInput& other = experts[static_cast<size_t>(later.target)];
      next = (other.gate ? other.gate : other.up).row_range(later.begin, later.end);
    }
    if (expert.gate) {
      multiply(expert.gate, expert.gate_bias, first, expert.up.row_range(piece.begin, piece.end));
      multiply(expert.up, expert.up_bias, second, next);
    } else {
      multiply(expert.up, expert.up_bias, first, next);
    }
    const auto leave = [&](Matrix from, Matrix to) {
      if (!to.data) return;
      const Matrix place = to.row_range(piece.token_begin, piece.token_end).col_range(piece.begin, piece.end);
      for (int64_t t = 0; t < tokens; ++t) std::copy_n(from.row(t), rows, place.row(t));
    };
    leave(expert.gate ? second : first, halves.up);
    if (expert.gate) leave(first, halves.gate);
    for (int64_t t = 0; t < tokens; ++t) {
      if (rule.limit != 0)
        clamped_swiglu(context.kernels.vector, rule, first.row(t), second.row(t),
                       reinterpret_cast<float*>(sigmoids.of(worker)), rows);
      else
        context.kernels.vector.activate(rule.activation, first.row(t), expert.gate ? second.row(t) : nullptr, rows);
    }
  });
}

void grouped_down_combine(Context& context, ConstMatrix h, const RoutingPlan& plan,
                          std::span<const ExpertOutput> experts, Matrix y) {
  constexpr std::string_view where = "grouped_down_combine";
  refuse_tape(context, where);
  check_plan(plan, y.rows, experts.size(), where);
  base::require(h.rows == plan.slots(), where, "h has {} rows, the plan {} slots", h.rows, plan.slots());
  if (plan.slots() == 0) return fill_zero(y);
  const tensor::ArenaScope scope(context.arena);
  PreparedRows prepared(context, h);
  int64_t scratch_bytes = 0, used = 0;
  int64_t* chosen = context.arena.take<int64_t>(plan.experts());  // experts with tokens
  double total_bytes = 0;
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const Weight& w = experts[static_cast<size_t>(e)].down;
    if (plan.tokens_of(e).empty()) continue;
    const kernels::MatmulKernel& kernel = kernel_of(context, w, h.cols, where);
    base::require(w.rows == y.cols, where, "expert {} is [{}, {}], y has {} columns", e, w.rows, w.cols, y.cols);
    prepared.need(kernel.form);
    scratch_bytes = std::max(scratch_bytes, kernel.scratch_bytes(w.dtype, h.cols));
    total_bytes += static_cast<double>(w.bytes());
    chosen[used++] = e;
  }
  // A piece is a range of y's columns, for every slot: the weighted sum then needs no other worker's outputs, and no
  // barrier.
  const int64_t piece_rows =
      rows_a_piece(context, y.cols, h.cols, plan.slots(), total_bytes / static_cast<double>(y.cols));
  const int64_t count = (y.cols + piece_rows - 1) / piece_rows;
  const WorkerScratch scratch(context, scratch_bytes);
  const WorkerScratch outputs(context, plan.slots() * piece_rows * static_cast<int64_t>(sizeof(float)));

  run_pieces(context, prepared, count, [&](int64_t index, int worker) {
    const int64_t begin = index * piece_rows, end = std::min(begin + piece_rows, y.cols);
    const Matrix out(reinterpret_cast<float*>(outputs.of(worker)), plan.slots(), end - begin);
    for (int64_t i = 0; i < used; ++i) {
      const size_t e = static_cast<size_t>(chosen[i]);
      const int64_t first = plan.expert_offset[e], last = plan.expert_offset[e + 1];
      const ExpertOutput& expert = experts[e];
      const Weight next =
          i + 1 < used ? experts[static_cast<size_t>(chosen[i + 1])].down.row_range(begin, end) : Weight();
      const kernels::MatmulKernel& kernel = kernel_of(context, expert.down, h.cols, where);
      const Matrix part = out.row_range(first, last);
      kernel.run(task_of(expert.down.row_range(begin, end), prepared.rows(kernel.form) + first, last - first, part,
                         scratch.of(worker), next));
      add_bias(part, expert.bias == nullptr ? nullptr : expert.bias + begin);
    }
    for (int64_t t = 0; t < y.rows; ++t) {
      float* sum = y.row(t) + begin;
      const int64_t choices_begin = plan.token_offset[static_cast<size_t>(t)];
      const int64_t choices_end = plan.token_offset[static_cast<size_t>(t) + 1];
      if (choices_begin == choices_end) std::fill_n(sum, end - begin, 0.0f);
      for (int64_t c = choices_begin; c < choices_end; ++c) {
        const int64_t slot = plan.token_slot[static_cast<size_t>(c)];
        const float weight = plan.slot_weight[static_cast<size_t>(slot)];
        const float* value = out.row(slot);
        // The first is assigned, not added to 0: with one expert of weight 1 the bits are those of the dense matmul.
        if (c == choices_begin) {
          for (int64_t i = 0; i < end - begin; ++i) sum[i] = weight * value[i];
        } else {
          context.kernels.vector.add_scaled(value, weight, sum, end - begin);
        }
      }
    }
  });
}

}  // namespace coterie::ops
