#include "ops/moe/gated_matmul.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "ops/low_rank_job.h"
#include "ops/moe/grouped.h"
#include "ops/observer.h"
#include "ops/row_share.h"
#include "ops/tape.h"

namespace coterie::ops {

using kernels::ActivationForm;

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

// A NaN stays one here, too.
void clamped_gate(const kernels::VectorKernels& kernels, const GateRule& rule, float* gate, const float* up,
                  int64_t n) {
  const float limit = rule.limit;
  kernels.activate(rule.activation, gate, nullptr, n);
  for (int64_t i = 0; i < n; ++i) {
    const float above = up[i] > limit ? limit : up[i];
    gate[i] = (gate[i] > limit ? limit : gate[i]) * (above < -limit ? -limit : above);
  }
}

/// x · Aᵀ of the LoRAs of gates and ups, where there is any.
class LoraHalves {
 public:
  LoraHalves(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> experts,
             const GatedHalves& halves) {
    const auto of_gate = [&](int64_t e) -> const LowRank& { return experts[static_cast<size_t>(e)].gate_low; };
    const auto of_up = [&](int64_t e) -> const LowRank& { return experts[static_cast<size_t>(e)].up_low; };
    const int64_t gate_rank = largest_rank(plan, of_gate), up_rank = largest_rank(plan, of_up);
    rank_ = std::max(gate_rank, up_rank);
    if (up_rank > 0) {
      up = halves.low_up.data ? halves.low_up : context.arena.matrix(plan.slots(), up_rank);
      rows_times_a(context, x, plan, false, of_up, up);
    }
    if (gate_rank == 0) return;
    if (share_a(plan, experts)) {
      gate = up;
      return;
    }
    gate = halves.low_gate.data ? halves.low_gate : context.arena.matrix(plan.slots(), gate_rank);
    rows_times_a(context, x, plan, false, of_gate, gate);
  }
  int64_t rank() const { return rank_; }

  Matrix gate, up;  // [slots, r], maybe the same

 private:
  int64_t rank_ = 0;
};

constexpr std::string_view kWhere = "grouped_gated_matmul";

/// One call: looks at the experts that the plan sends tokens to, cuts their work into pieces, and computes these. Its
/// memory is of the arena's scope that the caller has opened.
class GatedMatmul {
 public:
  /// `x`: its rows, or their number alone where `prepared` has them in another form.
  GatedMatmul(Context& context, ConstMatrix x, const PreparedRows& prepared, const RoutingPlan& plan,
              std::span<const ExpertInput> experts, const GateRule& rule, Matrix h, const GatedHalves& halves,
              RowRange own)
      : context_(context),
        x_(x),
        plan_(plan),
        experts_(experts),
        rule_(rule),
        hidden_(h.cols),
        own_(own),
        h_(h.col_range(own.begin, own.end)),
        halves_(halves),
        prepared_(prepared),
        most_(fullest(plan)),
        piece_tokens_(std::max<int64_t>(most_, 1)) {
    for (int64_t e = 0; e < plan.experts(); ++e)
      if (!plan.tokens_of(e).empty()) look_at(e);  // the weights of the others may not even be in memory
  }

  void run() {
    if (used_ == 0 || h_.cols == 0) return;
    cut();
    take_scratch();
    run_pieces(context_, prepared_, count_, [this](int64_t index, int worker) { compute(index, worker); });
  }

 private:
  // Checks one expert, and counts what its kernels need.
  void look_at(int64_t e) {
    const ExpertInput& expert = experts_[static_cast<size_t>(e)];
    base::require(rule_.limit == 0 || expert.gate, kWhere, "a clamped SwiGLU of expert {} without a gate", e);
    for (const Weight* w : {&expert.up, &expert.gate}) {
      if (w == &expert.gate && !*w) continue;
      const kernels::MatmulKernel& kernel = kernel_of(context_, *w, x_.cols, kWhere);
      base::require(w->rows == hidden_, kWhere, "expert {} is [{}, {}], h has {} columns", e, w->rows, w->cols,
                    hidden_);
      prepared_.need(kernel.form);
      piece_tokens_ = std::min(piece_tokens_, tokens_a_piece(kernel.form, most_));
      in_floats_ &= kernel.form == ActivationForm::floats;
      repacked_ &= w->repacked;
      scratch_bytes_ = std::max(scratch_bytes_, scratch_of_kernel(kernel, *w, most_));
      total_bytes_ += static_cast<double>(own_rows(*w, 0, own_.size()).bytes());
    }
    ++used_;
    if (!context_.observer) return;
    if (expert.gate) context_.observer->input(expert.gate, x_, plan_.tokens_of(e));
    context_.observer->input(expert.up, x_, plan_.tokens_of(e));
  }

  // Of the rows that are computed here.
  Weight own_rows(const Weight& w, int64_t begin, int64_t end) const {
    return w.row_range(own_.begin + begin, own_.begin + end);
  }

  // A piece is a range of an expert's rows for some of its tokens.
  void cut() {
    const int64_t slots = plan_.slots(), total_rows = used_ * h_.cols, panel = context_.kernels.matmul.panel_rows;
    const int64_t mean = std::min((slots + used_ - 1) / used_, piece_tokens_);
    const double bytes_a_row = total_bytes_ / static_cast<double>(total_rows);
    const int64_t wanted = in_floats_ && mean >= kManyTokens ? rows_of_floats(context_, h_.cols, h_.cols * slots / mean)
                           : most_ == 1 && repacked_         ? rows_of_run(context_, total_rows, bytes_a_row)
                                                     : rows_a_piece(context_, total_rows, x_.cols, mean, bytes_a_row);
    piece_rows_ = std::min(wanted, (h_.cols + panel - 1) / panel * panel);
    const int64_t of_expert = (h_.cols + piece_rows_ - 1) / piece_rows_;
    pieces_ = context_.arena.take<Piece>(of_expert * (used_ + slots / piece_tokens_));
    for (int64_t e = 0; e < plan_.experts(); ++e)
      cut_pieces(plan_, e, h_.cols, piece_rows_, piece_tokens_, pieces_, count_);
  }

  void take_scratch() {
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    scratch_.emplace(context_, scratch_bytes_);
    ups_.emplace(context_, piece_tokens_ * piece_rows_ * kFloat);
    sigmoids_.emplace(context_, rule_.limit == 0 ? 0 : piece_rows_ * kFloat);
    pointers_.emplace(context_, piece_tokens_ * static_cast<int64_t>(sizeof(const std::byte*)));
    low_.emplace(context_, x_, plan_, experts_, halves_);
    adder_.emplace(context_, low_->rank(), piece_rows_);
  }

  // y = x · Wᵀ + bias, with the LoRA of W, for the rows and tokens of a piece.
  void multiply(const Piece& piece, int worker, const Weight& w, const float* bias, const LowRank& over,
                ConstMatrix inner, const Weight& next, Matrix y) const {
    const kernels::MatmulKernel& kernel = kernel_of(context_, w, x_.cols, kWhere);
    const std::byte* const* all = prepared_.rows(kernel.form);
    const std::byte** chosen = reinterpret_cast<const std::byte**>(pointers_->of(worker));
    for (int64_t t = 0; t < y.rows; ++t) chosen[t] = all[plan_.slot_token[static_cast<size_t>(piece.token_begin + t)]];
    const int64_t begin = own_.begin + piece.begin, end = own_.begin + piece.end;
    run_kernel(context_, kernel, w.row_range(begin, end), chosen, y.rows, y, scratch_->of(worker), next);
    add_bias(y, bias == nullptr ? nullptr : bias + begin);
    if (over) adder_->add(worker, over, inner.row_range(piece.token_begin, piece.token_end), begin, end, y);
  }

  // The rows that the same worker will probably read after piece `index`.
  Weight after(int64_t index) const {
    const int64_t later = index + context_.pool.threads();
    if (later >= count_) return {};
    const Piece& piece = pieces_[later];
    const ExpertInput& expert = experts_[static_cast<size_t>(piece.target)];
    return own_rows(expert.gate ? expert.gate : expert.up, piece.begin, piece.end);
  }

  void compute(int64_t index, int worker) const {
    const Piece& piece = pieces_[index];
    const ExpertInput& expert = experts_[static_cast<size_t>(piece.target)];
    const int64_t tokens = piece.token_end - piece.token_begin, rows = piece.end - piece.begin;
    const auto part = [&](Matrix m) {
      return m.row_range(piece.token_begin, piece.token_end).col_range(piece.begin, piece.end);
    };
    // Where the halves are wanted they are made at their places, and the activation has a copy.
    const Matrix activated = part(h_), left = expert.gate ? halves_.gate : halves_.up;
    const Matrix first = left.data ? part(left) : activated;
    const Matrix second =
        halves_.up.data ? part(halves_.up) : Matrix(reinterpret_cast<float*>(ups_->of(worker)), tokens, rows);
    if (expert.gate) {
      multiply(piece, worker, expert.gate, expert.gate_bias, expert.gate_low, low_->gate,
               own_rows(expert.up, piece.begin, piece.end), first);
      multiply(piece, worker, expert.up, expert.up_bias, expert.up_low, low_->up, after(index), second);
    } else {
      multiply(piece, worker, expert.up, expert.up_bias, expert.up_low, low_->up, after(index), first);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      if (left.data) std::copy_n(first.row(t), rows, activated.row(t));
      if (rule_.clamped)
        clamped_gate(context_.kernels.vector, rule_, activated.row(t), second.row(t), rows);
      else if (rule_.limit != 0)
        clamped_swiglu(context_.kernels.vector, rule_, activated.row(t), second.row(t),
                       reinterpret_cast<float*>(sigmoids_->of(worker)), rows);
      else
        context_.kernels.vector.activate(rule_.activation, activated.row(t), expert.gate ? second.row(t) : nullptr,
                                         rows);
    }
  }

  Context& context_;
  ConstMatrix x_;
  const RoutingPlan& plan_;
  std::span<const ExpertInput> experts_;
  const GateRule& rule_;
  int64_t hidden_;
  RowRange own_;  // which of the experts' rows
  Matrix h_;      // their columns
  const GatedHalves& halves_;

  PreparedRows prepared_;
  int64_t most_, piece_tokens_;
  int64_t used_ = 0, scratch_bytes_ = 0;  // experts with tokens; of a kernel
  bool in_floats_ = true, repacked_ = true;
  double total_bytes_ = 0;  // of their weights

  int64_t piece_rows_ = 0, count_ = 0;
  Piece* pieces_ = nullptr;
  std::optional<WorkerScratch> scratch_, ups_, sigmoids_, pointers_;
  std::optional<LoraHalves> low_;
  std::optional<LowRankAdder> adder_;
};

}  // namespace

bool share_a(const RoutingPlan& plan, std::span<const ExpertInput> experts) {
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const ExpertInput& expert = experts[static_cast<size_t>(e)];
    if (plan.tokens_of(e).empty() || !expert.gate_low) continue;
    if (expert.gate_low.a.data != expert.up_low.a.data || expert.gate_low.scale != expert.up_low.scale) return false;
  }
  return true;
}

void grouped_gated_matmul(Context& context, ConstMatrix x, const RoutingPlan& plan,
                          std::span<const ExpertInput> experts, const GateRule& rule, Matrix h) {
  refuse_tape(context, kWhere);
  gated_matmul(context, x, plan, experts, rule, h, {});
}

namespace {

void gated_matmul(Context& context, ConstMatrix x, const PreparedRows& prepared, const RoutingPlan& plan,
                  std::span<const ExpertInput> experts, const GateRule& rule, Matrix h, const GatedHalves& halves) {
  check_plan(plan, x.rows, experts.size(), kWhere);
  base::require(h.rows == plan.slots(), kWhere, "h has {} rows, the plan {} slots", h.rows, plan.slots());
  if (plan.slots() == 0) return;
  const int64_t panel = context.kernels.matmul.panel_rows;
  RowShare* const share = context.rows && context.rows->divides(h.cols, x.cols, panel) ? context.rows : nullptr;
  base::require(!share || !halves.up.data, kWhere, "what a backward pass reads is wanted of rows that ranks divide");
  GatedMatmul(context, x, prepared, plan, experts, rule, h, halves,
              share ? share->own(h.cols, panel) : RowRange{0, h.cols})
      .run();
  if (!share) return;
  const RowShare::Divided divided{h, panel};
  share->gather({&divided, 1});
}

}  // namespace

void gated_matmul(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> experts,
                  const GateRule& rule, Matrix h, const GatedHalves& halves) {
  const tensor::ArenaScope scope(context.arena);
  gated_matmul(context, x, PreparedRows(context, x), plan, experts, rule, h, halves);
}

void gated_matmul(Context& context, const FormedRows& x, const RoutingPlan& plan, std::span<const ExpertInput> experts,
                  const GateRule& rule, Matrix h) {
  base::require(!context.observer, kWhere, "rows in a kernel's form cannot be shown");
  const tensor::ArenaScope scope(context.arena);
  gated_matmul(context, {nullptr, x.count(), x.cols}, PreparedRows(context, x), plan, experts, rule, h, {});
}

}  // namespace coterie::ops
