#include <algorithm>

#include "base/error.h"
#include "ops/gated.h"
#include "ops/gradients.h"
#include "ops/low_rank_job.h"
#include "ops/matmul_job.h"
#include "ops/observer.h"
#include "ops/rows.h"

namespace coterie::ops {

using kernels::ActivationForm;

namespace {

/// Most slots that one expert has.
int64_t fullest(const RoutingPlan& plan) {
  int64_t most = 0;
  for (int64_t e = 0; e < plan.experts(); ++e) most = std::max<int64_t>(most, std::ssize(plan.tokens_of(e)));
  return most;
}

/// Expert e's slots times `rows` outputs, cut into pieces of at most piece_rows x piece_tokens.
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

}  // namespace

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

/// x · Aᵀ of what is laid over gates and ups, where there is any.
class LowHalves {
 public:
  LowHalves(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> experts,
            const GatedHalves& halves) {
    const auto of_gate = [&](int64_t e) -> const LowRank& { return experts[static_cast<size_t>(e)].gate_low; };
    const auto of_up = [&](int64_t e) -> const LowRank& { return experts[static_cast<size_t>(e)].up_low; };
    const int64_t gate_rank = largest_rank(plan, of_gate), up_rank = largest_rank(plan, of_up);
    rank_ = std::max(gate_rank, up_rank);
    if (up_rank > 0) {
      up = halves.low_up.data ? halves.low_up : context.arena.matrix(plan.slots(), up_rank);
      rows_to_low(context, x, plan, false, of_up, up);
    }
    if (gate_rank == 0) return;
    if (one_a(plan, experts)) {
      gate = up;
      return;
    }
    gate = halves.low_gate.data ? halves.low_gate : context.arena.matrix(plan.slots(), gate_rank);
    rows_to_low(context, x, plan, false, of_gate, gate);
  }
  int64_t rank() const { return rank_; }

  Matrix gate, up;  // [slots, r], maybe the same

 private:
  int64_t rank_ = 0;
};

}  // namespace

bool one_a(const RoutingPlan& plan, std::span<const ExpertInput> experts) {
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const ExpertInput& expert = experts[static_cast<size_t>(e)];
    if (plan.tokens_of(e).empty() || !expert.gate_low) continue;
    if (expert.gate_low.a.data != expert.up_low.a.data || expert.gate_low.scale != expert.up_low.scale) return false;
  }
  return true;
}

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
  const int64_t most = fullest(plan);
  int64_t scratch_bytes = 0, total_rows = 0, used = 0, piece_tokens = std::max<int64_t>(most, 1);
  bool in_floats = true;
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
      piece_tokens = std::min(piece_tokens, tokens_a_piece(kernel.form, most));
      in_floats &= kernel.form == ActivationForm::floats;
      scratch_bytes = std::max(scratch_bytes, kernel.scratch_bytes(w->dtype, x.cols));
      total_bytes += static_cast<double>(w->bytes());
    }
    total_rows += h.cols;
    ++used;
    if (!context.observer) continue;
    if (expert.gate) context.observer->input(expert.gate, x, plan.tokens_of(e));
    context.observer->input(expert.up, x, plan.tokens_of(e));
  }
  if (total_rows == 0) return;
  const int64_t mean = std::min((plan.slots() + used - 1) / used, piece_tokens);
  const int64_t piece_rows =
      std::min(in_floats && mean >= kManyTokens
                   ? rows_of_floats(context, h.cols, h.cols * plan.slots() / mean)
                   : rows_a_piece(context, total_rows, x.cols, mean, total_bytes / static_cast<double>(total_rows)),
               (h.cols + context.kernels.matmul.panel_rows - 1) / context.kernels.matmul.panel_rows *
                   context.kernels.matmul.panel_rows);
  const int64_t expert_pieces = (h.cols + piece_rows - 1) / piece_rows;
  Piece* pieces = context.arena.take<Piece>(expert_pieces * (used + plan.slots() / piece_tokens));
  int64_t count = 0;
  for (int64_t e = 0; e < plan.experts(); ++e) cut_pieces(plan, e, h.cols, piece_rows, piece_tokens, pieces, count);
  const WorkerScratch scratch(context, scratch_bytes);
  const WorkerScratch ups(context, piece_tokens * piece_rows * static_cast<int64_t>(sizeof(float)));
  const WorkerScratch sigmoids(context, rule.limit == 0 ? 0 : piece_rows * static_cast<int64_t>(sizeof(float)));
  const WorkerScratch pointers(context, piece_tokens * static_cast<int64_t>(sizeof(const std::byte*)));
  const LowHalves low(context, x, plan, experts, halves);
  const LowRankAdder adder(context, low.rank(), piece_rows);

  const int64_t threads = context.pool.threads();
  run_pieces(context, prepared, count, [&](int64_t index, int worker) {
    const Piece& piece = pieces[index];
    const ExpertInput& expert = experts[static_cast<size_t>(piece.target)];
    const int64_t tokens = piece.token_end - piece.token_begin, rows = piece.end - piece.begin;
    const auto part = [&](Matrix m) {
      return m.row_range(piece.token_begin, piece.token_end).col_range(piece.begin, piece.end);
    };
    // Where the halves are wanted they are made at their places, and the activation has a copy.
    const Matrix activated = part(h), left = expert.gate ? halves.gate : halves.up;
    const Matrix first = left.data ? part(left) : activated;
    const Matrix second =
        halves.up.data ? part(halves.up) : Matrix(reinterpret_cast<float*>(ups.of(worker)), tokens, rows);
    const std::byte** chosen = reinterpret_cast<const std::byte**>(pointers.of(worker));
    const auto multiply = [&](const Weight& w, const float* bias, Matrix y, const Weight& next, const LowRank& over,
                              ConstMatrix inner) {
      const kernels::MatmulKernel& kernel = kernel_of(context, w, x.cols, where);
      const std::byte* const* all = prepared.rows(kernel.form);
      for (int64_t t = 0; t < tokens; ++t) chosen[t] = all[plan.slot_token[static_cast<size_t>(piece.token_begin + t)]];
      kernel.run(task_of(context, w.row_range(piece.begin, piece.end), chosen, tokens, y, scratch.of(worker), next));
      add_bias(y, bias == nullptr ? nullptr : bias + piece.begin);
      if (over) adder.add(worker, over, inner.row_range(piece.token_begin, piece.token_end), piece.begin, piece.end, y);
    };
    Weight next;
    if (index + threads < count) {
      const Piece& later = pieces[index + threads];
      const ExpertInput& other = experts[static_cast<size_t>(later.target)];
      next = (other.gate ? other.gate : other.up).row_range(later.begin, later.end);
    }
    if (expert.gate) {
      multiply(expert.gate, expert.gate_bias, first, expert.up.row_range(piece.begin, piece.end), expert.gate_low,
               low.gate);
      multiply(expert.up, expert.up_bias, second, next, expert.up_low, low.up);
    } else {
      multiply(expert.up, expert.up_bias, first, next, expert.up_low, low.up);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      if (left.data) std::copy_n(first.row(t), rows, activated.row(t));
      if (rule.limit != 0)
        clamped_swiglu(context.kernels.vector, rule, activated.row(t), second.row(t),
                       reinterpret_cast<float*>(sigmoids.of(worker)), rows);
      else
        context.kernels.vector.activate(rule.activation, activated.row(t), expert.gate ? second.row(t) : nullptr, rows);
    }
  });
}

namespace {

/// A token's y from its slots' outputs [slots, n].
void combine(const Context& context, const RoutingPlan& plan, int64_t t, Matrix out, float* y) {
  const int64_t begin = plan.token_offset[static_cast<size_t>(t)], end = plan.token_offset[static_cast<size_t>(t) + 1];
  if (begin == end) std::fill_n(y, out.cols, 0.0f);
  for (int64_t c = begin; c < end; ++c) {
    const int64_t slot = plan.token_slot[static_cast<size_t>(c)];
    const float weight = plan.slot_weight[static_cast<size_t>(slot)];
    const float* value = out.row(slot);
    // The first is assigned, not added to 0: with one expert of weight 1 the bits are those of the dense matmul.
    if (c == begin) {
      for (int64_t i = 0; i < out.cols; ++i) y[i] = weight * value[i];
    } else {
      context.kernels.vector.add_scaled(value, weight, y, out.cols);
    }
  }
}

/// More activations than the second cache holds: they are read once for some hundred columns of y, expert by expert,
/// and the slots' outputs go through memory. (64 experts, 8 a token, 2048 tokens, 256 -> 384, Zen 4, November 2026: 81
/// GFLOP/s as below, 146 so.)
void down_combine_apart(Context& context, PreparedRows& prepared, const RoutingPlan& plan,
                        std::span<const ExpertOutput> experts, int64_t scratch_bytes, Matrix y, Matrix low) {
  const int64_t most = fullest(plan), tokens = tokens_a_piece(ActivationForm::floats, most);
  const int64_t rows = rows_of_floats(context, y.cols, y.cols * plan.slots() / tokens);
  Piece* pieces = context.arena.take<Piece>((y.cols + rows - 1) / rows * (std::ssize(experts) + plan.slots() / tokens));
  int64_t count = 0;
  for (int64_t e = 0; e < plan.experts(); ++e) cut_pieces(plan, e, y.cols, rows, tokens, pieces, count);
  const Matrix out = context.arena.matrix(plan.slots(), y.cols);
  const WorkerScratch scratch(context, scratch_bytes);
  const LowRankAdder adder(context, low.cols, rows);
  run_pieces(context, prepared, count, [&](int64_t index, int worker) {
    const Piece& piece = pieces[index];
    const ExpertOutput& expert = experts[static_cast<size_t>(piece.target)];
    const kernels::MatmulKernel& kernel = kernel_of(context, expert.down, expert.down.cols, "grouped_down_combine");
    const Matrix part = out.row_range(piece.token_begin, piece.token_end).col_range(piece.begin, piece.end);
    kernel.run(task_of(context, expert.down.row_range(piece.begin, piece.end),
                       prepared.rows(kernel.form) + piece.token_begin, part.rows, part, scratch.of(worker), {}));
    add_bias(part, expert.bias == nullptr ? nullptr : expert.bias + piece.begin);
    if (expert.low)
      adder.add(worker, expert.low, low.row_range(piece.token_begin, piece.token_end), piece.begin, piece.end, part);
  });
  if (context.observer && context.observer->wants_outputs(experts)) context.observer->outputs(plan, experts, out);
  for_rows(context, y.rows, plan.slots() / std::max<int64_t>(y.rows, 1) * y.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) combine(context, plan, t, out, y.row(t));
  });
}

}  // namespace

void grouped_down_combine(Context& context, ConstMatrix h, const RoutingPlan& plan,
                          std::span<const ExpertOutput> experts, Matrix y) {
  refuse_tape(context, "grouped_down_combine");
  down_combine(context, h, plan, experts, y, {});
}

void down_combine(Context& context, ConstMatrix h, const RoutingPlan& plan, std::span<const ExpertOutput> experts,
                  Matrix y, Matrix low) {
  constexpr std::string_view where = "grouped_down_combine";
  check_plan(plan, y.rows, experts.size(), where);
  base::require(h.rows == plan.slots(), where, "h has {} rows, the plan {} slots", h.rows, plan.slots());
  if (plan.slots() == 0) return fill_zero(y);
  const tensor::ArenaScope scope(context.arena);
  PreparedRows prepared(context, h);
  int64_t scratch_bytes = 0, used = 0;
  int64_t* chosen = context.arena.take<int64_t>(plan.experts());  // experts with tokens
  double total_bytes = 0;
  bool in_floats = true;
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const Weight& w = experts[static_cast<size_t>(e)].down;
    if (plan.tokens_of(e).empty()) continue;
    const kernels::MatmulKernel& kernel = kernel_of(context, w, h.cols, where);
    base::require(w.rows == y.cols, where, "expert {} is [{}, {}], y has {} columns", e, w.rows, w.cols, y.cols);
    prepared.need(kernel.form);
    scratch_bytes = std::max(scratch_bytes, kernel.scratch_bytes(w.dtype, h.cols));
    total_bytes += static_cast<double>(w.bytes());
    in_floats &= kernel.form == ActivationForm::floats;
    chosen[used++] = e;
    if (context.observer)
      context.observer->input(
          w, h.row_range(plan.expert_offset[static_cast<size_t>(e)], plan.expert_offset[static_cast<size_t>(e) + 1]));
  }
  const auto of_down = [&](int64_t e) -> const LowRank& { return experts[static_cast<size_t>(e)].low; };
  if (const int64_t rank = largest_rank(plan, of_down); rank > 0) {
    if (!low.data) low = context.arena.matrix(plan.slots(), rank);
    rows_to_low(context, h, plan, true, of_down, low);
  } else {
    low = {};
  }
  constexpr int64_t kSecondCache = 1 << 17;  // floats
  const bool many = in_floats && plan.slots() >= kManyTokens * used && plan.slots() * h.cols > kSecondCache;
  if (many || (context.observer && context.observer->wants_outputs(experts)))
    return down_combine_apart(context, prepared, plan, experts, scratch_bytes, y, low);
  // A piece is a range of y's columns, for every slot: the weighted sum then needs no other worker's outputs, and no
  // barrier.
  const int64_t piece_rows =
      rows_a_piece(context, y.cols, h.cols, plan.slots(), total_bytes / static_cast<double>(y.cols));
  const int64_t count = (y.cols + piece_rows - 1) / piece_rows;
  const WorkerScratch scratch(context, scratch_bytes);
  const WorkerScratch outputs(context, plan.slots() * piece_rows * static_cast<int64_t>(sizeof(float)));
  const LowRankAdder adder(context, low.cols, piece_rows);

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
      kernel.run(task_of(context, expert.down.row_range(begin, end), prepared.rows(kernel.form) + first, last - first,
                         part, scratch.of(worker), next));
      add_bias(part, expert.bias == nullptr ? nullptr : expert.bias + begin);
      if (expert.low) adder.add(worker, expert.low, low.row_range(first, last), begin, end, part);
    }
    for (int64_t t = 0; t < y.rows; ++t) combine(context, plan, t, out, y.row(t) + begin);
  });
}

}  // namespace coterie::ops
