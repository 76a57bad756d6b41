#include "ops/moe/down.h"

#include <algorithm>

#include "base/error.h"
#include "ops/low_rank_job.h"
#include "ops/moe/grouped.h"
#include "ops/observer.h"
#include "ops/row_share.h"
#include "ops/rows.h"
#include "ops/tape.h"

namespace coterie::ops {

using kernels::ActivationForm;

namespace {

constexpr std::string_view kWhere = "grouped_down_combine";

/// A token's y [cols] from its slots' outputs: `row`(slot) is where those lie.
template <typename Row>
void combine_token(const Context& context, const RoutingPlan& plan, int64_t t, int64_t cols, float* y, Row&& row) {
  const int64_t begin = plan.token_offset[static_cast<size_t>(t)], end = plan.token_offset[static_cast<size_t>(t) + 1];
  if (begin == end) std::fill_n(y, cols, 0.0f);
  for (int64_t c = begin; c < end; ++c) {
    const int64_t slot = plan.token_slot[static_cast<size_t>(c)];
    const float weight = plan.slot_weight[static_cast<size_t>(slot)];
    const float* value = row(slot);
    // The first is assigned, not added to 0: with one expert of weight 1 the bits are those of the dense matmul.
    if (c == begin) {
      for (int64_t i = 0; i < cols; ++i) y[i] = weight * value[i];
    } else {
      context.kernels.vector.add_scaled(value, weight, y, cols);
    }
  }
}

void combine_token(const Context& context, const RoutingPlan& plan, int64_t t, ConstMatrix out, float* y) {
  combine_token(context, plan, t, out.cols, y, [&](int64_t slot) { return out.row(slot); });
}

/// One call: the second halves of the experts that the plan sends tokens to. Its memory is of the arena's scope that
/// the caller has opened.
class Down {
 public:
  /// `width`: D. `own`: which columns of what it makes are computed here.
  Down(Context& context, ConstMatrix h, const RoutingPlan& plan, std::span<const ExpertOutput> experts, int64_t width,
       Matrix low, RowRange own)
      : context_(context),
        plan_(plan),
        experts_(experts),
        hidden_(h.cols),
        all_(width),
        own_(own),
        width_(own.size()),
        prepared_(context, h),
        chosen_(context.arena.take<int64_t>(plan.experts())) {
    for (int64_t e = 0; e < plan.experts(); ++e)
      if (!plan.tokens_of(e).empty()) look_at(e, h);
    const auto over = [&](int64_t e) -> const LowRank& { return experts[static_cast<size_t>(e)].low; };
    const int64_t rank = largest_rank(plan, over);
    if (rank == 0) return;
    low_ = low.data ? low : context.arena.matrix(plan.slots(), rank);
    rows_times_a(context, h, plan, true, over, low_);
  }

  /// Whether to go through memory: more activations than the second cache holds are read once for some hundred columns
  /// of y, expert by expert. (64 experts, 8 a token, 2048 tokens, 256 -> 384, Zen 4, November 2026: 81 GFLOP/s by
  /// combined(), 146 apart.)
  bool many() const {
    constexpr int64_t kSecondCache = 1 << 17;  // floats
    return in_floats_ && plan_.slots() >= kManyTokens * used_ && plan_.slots() * hidden_ > kSecondCache;
  }

  /// out[s] = down_e · h[s] + bias_e. out [slots, D].
  void apart(Matrix all) {
    const Matrix out = all.col_range(own_.begin, own_.end);
    const int64_t tokens = in_floats_ ? tokens_a_piece(ActivationForm::floats, fullest(plan_)) : fullest(plan_);
    const int64_t rows = in_floats_
                             ? rows_of_floats(context_, width_, width_ * plan_.slots() / tokens)
                             : rows_a_piece(context_, width_ * used_, hidden_, (plan_.slots() + used_ - 1) / used_,
                                            total_bytes_ / static_cast<double>(width_ * used_));
    const int64_t of_expert = (width_ + rows - 1) / rows;
    Piece* pieces = context_.arena.take<Piece>(of_expert * (used_ + plan_.slots() / tokens));
    int64_t count = 0;
    for (int64_t e = 0; e < plan_.experts(); ++e) cut_pieces(plan_, e, width_, rows, tokens, pieces, count);
    const WorkerScratch scratch(context_, scratch_bytes_);
    const LowRankAdder adder(context_, low_.cols, rows);
    run_pieces(context_, prepared_, count, [&](int64_t index, int worker) {
      const Piece& piece = pieces[index];
      multiply(piece.target, piece.token_begin, piece.token_end, piece.begin, piece.end, {}, scratch, adder, worker,
               out.row_range(piece.token_begin, piece.token_end).col_range(piece.begin, piece.end));
    });
  }

  /// y[t] = Σ slot_weight[s] * out[s]. A piece is a range of y's columns, for every slot: the weighted sum then needs
  /// no other worker's outputs, and no barrier.
  void combined(Matrix all) {
    const Matrix y = all.col_range(own_.begin, own_.end);
    const double bytes = total_bytes_ / static_cast<double>(width_);  // of a column of y
    const bool once = repacked_ && fullest(plan_) == 1;               // each expert's rows are then a run of their own
    const int64_t piece_rows = once ? rows_of_run(context_, width_, bytes / static_cast<double>(used_))
                                    : rows_a_piece(context_, width_, hidden_, plan_.slots(), bytes);
    const int64_t count = (width_ + piece_rows - 1) / piece_rows;
    const WorkerScratch scratch(context_, scratch_bytes_);
    const WorkerScratch outputs(context_, plan_.slots() * piece_rows * static_cast<int64_t>(sizeof(float)));
    const LowRankAdder adder(context_, low_.cols, piece_rows);
    run_pieces(context_, prepared_, count, [&](int64_t index, int worker) {
      const int64_t begin = index * piece_rows, end = std::min(begin + piece_rows, width_);
      const Matrix out(reinterpret_cast<float*>(outputs.of(worker)), plan_.slots(), end - begin);
      for (int64_t i = 0; i < used_; ++i) {
        const auto e = static_cast<size_t>(chosen_[i]);
        const int64_t first = plan_.expert_offset[e], last = plan_.expert_offset[e + 1];
        const Weight next =
            i + 1 < used_ ? own_rows(experts_[static_cast<size_t>(chosen_[i + 1])].down, begin, end) : Weight();
        multiply(chosen_[i], first, last, begin, end, next, scratch, adder, worker, out.row_range(first, last));
      }
      for (int64_t t = 0; t < y.rows; ++t) combine_token(context_, plan_, t, out, y.row(t) + begin);
    });
  }

 private:
  Weight own_rows(const Weight& w, int64_t begin, int64_t end) const {
    return w.row_range(own_.begin + begin, own_.begin + end);
  }

  // Checks one expert, and counts what its kernel needs.
  void look_at(int64_t e, ConstMatrix h) {
    const Weight& w = experts_[static_cast<size_t>(e)].down;
    const kernels::MatmulKernel& kernel = kernel_of(context_, w, hidden_, kWhere);
    base::require(w.rows == all_, kWhere, "expert {} is [{}, {}], y has {} columns", e, w.rows, w.cols, all_);
    prepared_.need(kernel.form);
    scratch_bytes_ = std::max(scratch_bytes_, scratch_of_kernel(kernel, w, fullest(plan_)));
    total_bytes_ += static_cast<double>(own_rows(w, 0, width_).bytes());
    in_floats_ &= kernel.form == ActivationForm::floats;
    repacked_ &= w.repacked;
    chosen_[used_++] = e;
    if (context_.observer)
      context_.observer->input(
          w, h.row_range(plan_.expert_offset[static_cast<size_t>(e)], plan_.expert_offset[static_cast<size_t>(e) + 1]));
  }

  // y = own rows [begin, end) of down_e · h + bias_e, for slots [first, last).
  void multiply(int64_t e, int64_t first, int64_t last, int64_t begin, int64_t end, const Weight& next,
                const WorkerScratch& scratch, const LowRankAdder& adder, int worker, Matrix y) const {
    const ExpertOutput& expert = experts_[static_cast<size_t>(e)];
    const kernels::MatmulKernel& kernel = kernel_of(context_, expert.down, hidden_, kWhere);
    run_kernel(context_, kernel, own_rows(expert.down, begin, end), prepared_.rows(kernel.form) + first, last - first,
               y, scratch.of(worker), next);
    add_bias(y, expert.bias == nullptr ? nullptr : expert.bias + own_.begin + begin);
    if (expert.low) adder.add(worker, expert.low, low_.row_range(first, last), own_.begin + begin, own_.begin + end, y);
  }

  Context& context_;
  const RoutingPlan& plan_;
  std::span<const ExpertOutput> experts_;
  int64_t hidden_, all_;  // F, D
  RowRange own_;
  int64_t width_;  // of own_
  PreparedRows prepared_;
  int64_t* chosen_;  // experts with tokens
  int64_t used_ = 0, scratch_bytes_ = 0;
  double total_bytes_ = 0;  // of their weights
  bool in_floats_ = true, repacked_ = true;
  Matrix low_ = {};
};

void check(ConstMatrix h, const RoutingPlan& plan, int64_t tokens, size_t experts) {
  check_plan(plan, tokens, experts, kWhere);
  base::require(h.rows == plan.slots(), kWhere, "h has {} rows, the plan {} slots", h.rows, plan.slots());
}

/// Which columns are computed here, and who gets them from the others; null: all are computed here.
struct Own {
  Own(const Context& context, ConstMatrix h, Matrix out) : y(out), panel(context.kernels.matmul.panel_rows) {
    if (context.rows && context.rows->divides(out.cols, h.cols, panel)) share = context.rows;
  }
  RowRange columns() const { return share ? share->own(y.cols, panel) : RowRange{0, y.cols}; }
  void gather() const {
    if (!share) return;
    const RowShare::Divided divided{y, panel};
    share->gather({&divided, 1});
  }

  Matrix y;
  int64_t panel;
  RowShare* share = nullptr;
};

}  // namespace

void combine(Context& context, const RoutingPlan& plan, ConstMatrix out, Matrix y) {
  base::require(out.rows == plan.slots() && y.rows == plan.tokens && out.cols == y.cols, "combine",
                "out [{}, {}] and y [{}, {}] for {} slots of {} tokens", out.rows, out.cols, y.rows, y.cols,
                plan.slots(), plan.tokens);
  for_rows(context, y.rows, plan.slots() / std::max<int64_t>(y.rows, 1) * y.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) combine_token(context, plan, t, out, y.row(t));
  });
}

void combine(Context& context, const RoutingPlan& plan, std::span<const float* const> out, Matrix y) {
  base::require(std::ssize(out) == plan.slots() && y.rows == plan.tokens, "combine",
                "{} rows and y [{}, {}] for {} slots of {} tokens", out.size(), y.rows, y.cols, plan.slots(),
                plan.tokens);
  for_rows(context, y.rows, plan.slots() / std::max<int64_t>(y.rows, 1) * y.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      combine_token(context, plan, t, y.cols, y.row(t), [&](int64_t slot) { return out[static_cast<size_t>(slot)]; });
  });
}

void grouped_down(Context& context, ConstMatrix h, const RoutingPlan& plan, std::span<const ExpertOutput> experts,
                  Matrix out) {
  refuse_tape(context, "grouped_down");
  down_apart(context, h, plan, experts, out, {});
}

void down_apart(Context& context, ConstMatrix h, const RoutingPlan& plan, std::span<const ExpertOutput> experts,
                Matrix out, Matrix low) {
  check(h, plan, plan.tokens, experts.size());
  base::require(out.rows == plan.slots(), "grouped_down", "out has {} rows, the plan {} slots", out.rows, plan.slots());
  if (plan.slots() == 0) return;
  const tensor::ArenaScope scope(context.arena);
  const Own own(context, h, out);
  Down(context, h, plan, experts, out.cols, low, own.columns()).apart(out);
  own.gather();
}

void grouped_down_combine(Context& context, ConstMatrix h, const RoutingPlan& plan,
                          std::span<const ExpertOutput> experts, Matrix y) {
  refuse_tape(context, kWhere);
  down_combine(context, h, plan, experts, y, {});
}

void down_combine(Context& context, ConstMatrix h, const RoutingPlan& plan, std::span<const ExpertOutput> experts,
                  Matrix y, Matrix low) {
  check(h, plan, y.rows, experts.size());
  if (plan.slots() == 0) return fill_zero(y);
  const tensor::ArenaScope scope(context.arena);
  const Own own(context, h, y);
  Down down(context, h, plan, experts, y.cols, low, own.columns());
  const bool shown = context.observer && context.observer->wants_outputs(experts);
  if (!shown && !down.many()) {
    down.combined(y);
    return own.gather();
  }
  const Matrix out = context.arena.matrix(plan.slots(), y.cols);
  down.apart(out);
  if (own.share) {  // the weighted sum of own columns is less to send than the slots'
    const RowRange columns = own.columns();
    combine(context, plan, out.col_range(columns.begin, columns.end), y.col_range(columns.begin, columns.end));
    return own.gather();
  }
  if (shown) context.observer->outputs(plan, experts, out);
  combine(context, plan, out, y);
}

}  // namespace coterie::ops
