#include "ops/experts.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "ops/gated.h"
#include "ops/gradients.h"
#include "ops/matmul_job.h"
#include "ops/products.h"
#include "ops/rows.h"

namespace coterie::ops {

namespace {

/// What the forward leaves for the way back.
struct Kept {
  RoutingPlan plan;
  std::vector<ExpertInput> inputs;
  std::vector<ExpertOutput> outputs;
  GateRule rule;
  Precision precision;
  ConstMatrix x;     // [N, D] saved
  Matrix gate, up;   // [slots, F] before the activation; gate is empty where experts have none
  ConstMatrix x_at;  // where x lay
  Matrix y_at;

  bool gated() const { return gate.data != nullptr; }
};

/// The steps of the way back share buffers of [slots, F]: what was kept becomes, in place, the gradients of gate and
/// up, and `weighted` what down was applied to, times the slot's weight.
class Backward {
 public:
  Backward(const Kept& kept, Reverse& back)
      : kept_(kept), plan_(kept.plan), back_(back), context_(back.context()), dy_(back.gradient(kept.y_at)) {
    context_.precision = kept.precision;
    weighted_ = context_.arena.matrix(plan_.slots(), kept.up.cols);
    for (int64_t e = 0; e < plan_.experts(); ++e)
      if (!plan_.tokens_of(e).empty()) used_.push_back(e);
  }

  void run() {
    through_down();
    weights_of_experts();
    to_tokens();
    clear(context_, dy_);
  }

 private:
  int64_t first(int64_t e) const { return plan_.expert_offset[static_cast<size_t>(e)]; }
  int64_t last(int64_t e) const { return plan_.expert_offset[static_cast<size_t>(e) + 1]; }
  const int32_t* tokens(int64_t e) const { return plan_.slot_token.data() + first(e); }
  const ExpertInput& input(int64_t e) const { return kept_.inputs[static_cast<size_t>(e)]; }
  const ExpertOutput& output(int64_t e) const { return kept_.outputs[static_cast<size_t>(e)]; }

  // dh = downᵀ · dy, a piece at a time, and while it is in cache the activation's part. The gradient by a slot's weight
  // is dh · h + dy · bias: pieces leave their sums apart, to be added in order.
  void through_down() {
    constexpr int64_t kSlots = 240, kCols = 192;
    struct Piece {
      int64_t expert, slot, slots, col, cols;
    };
    const int64_t hidden = kept_.up.cols;
    std::vector<Piece> pieces;
    std::vector<ConstMatrix> downs(static_cast<size_t>(plan_.experts()));
    for (const int64_t e : used_) {
      downs[static_cast<size_t>(e)] = as_floats(context_, output(e).down);
      for (int64_t s = first(e); s < last(e); s += kSlots)
        for (int64_t c = 0; c < hidden; c += kCols)
          pieces.push_back({e, s, std::min(kSlots, last(e) - s), c, std::min(kCols, hidden - c)});
    }
    const Matrix sums = context_.arena.matrix((hidden + kCols - 1) / kCols, plan_.slots());
    const auto bytes = [](int64_t floats) { return floats * static_cast<int64_t>(sizeof(float)); };
    const WorkerScratch gemm_scratch(context_, bytes(gemm_of(context_).scratch_floats));
    const WorkerScratch piece_scratch(context_, bytes((kSlots + 2) * kCols));
    context_.pool.each(static_cast<int64_t>(pieces.size()), [&](int64_t index, int worker) {
      const Piece& p = pieces[static_cast<size_t>(index)];
      float* const scratch = reinterpret_cast<float*>(piece_scratch.of(worker));
      const Matrix dh(scratch + 2 * kCols, p.slots, p.cols, kCols);
      const Product product{
          dy_, plan_.slot_token.data() + p.slot, false, downs[static_cast<size_t>(p.expert)], nullptr, dy_.cols};
      kernels::GemmTask task = gemm_task(product, dh, 0, p.slots, 0, p.cols);
      task.b += p.col, task.accumulate = false;
      task.scratch = reinterpret_cast<float*>(gemm_scratch.of(worker));
      gemm_of(context_).run(task);
      for (int64_t i = 0; i < p.slots; ++i)
        sums.row(p.col / kCols)[p.slot + i] =
            activate_back(p.slot + i, p.col, p.cols, dh.row(i), scratch, scratch + kCols);
    });
    if (!plan_.weight_gradient) return;
    for (int64_t s = 0; s < plan_.slots(); ++s)
      for (int64_t r = 0; r < sums.rows; ++r) plan_.weight_gradient[s] += sums.row(r)[s];
    for (const int64_t e : used_) {
      const float* bias = output(e).bias;
      for (int64_t s = first(e); bias && s < last(e); ++s) {
        double along = 0;
        const float* dy = dy_.row(plan_.slot_token[static_cast<size_t>(s)]);
        for (int64_t i = 0; i < dy_.cols; ++i) along += static_cast<double>(dy[i]) * static_cast<double>(bias[i]);
        plan_.weight_gradient[s] += static_cast<float>(along);
      }
    }
  }

  // Returns dh · h; `value` and `slope` are scratch.
  float activate_back(int64_t slot, int64_t col, int64_t cols, const float* dh, float* value, float* slope) const {
    const float weight = plan_.slot_weight[static_cast<size_t>(slot)];
    float *const up = kept_.up.row(slot) + col, *const weighted = weighted_.row(slot) + col;
    float* const gate = kept_.gated() ? kept_.gate.row(slot) + col : up;
    if (kept_.rule.limit == 0)
      return context_.kernels.training.gate_back(
          {kept_.rule.activation, weight, dh, gate, kept_.gated() ? up : nullptr, weighted, cols});
    clamped_slope(gate, up, value, slope, cols);
    float along[4] = {};
    for (int64_t i = 0; i < cols; ++i) {
      const float linear = up[i], h = value[i] * linear, d = weight * dh[i];
      along[i % 4] += dh[i] * h;
      weighted[i] = weight * h;
      up[i] = flat(linear) ? 0.0f : d * value[i];
      gate[i] = d * linear * slope[i];
    }
    return (along[0] + along[1]) + (along[2] + along[3]);
  }

  // Of the clamped SwiGLU: g · sigmoid(alpha g) and its slope, which is 0 where the limit cut; `up` becomes u + 1.
  void clamped_slope(const float* gate, float* up, float* value, float* slope, int64_t n) const {
    const float limit = kept_.rule.limit, alpha = kept_.rule.alpha;
    for (int64_t i = 0; i < n; ++i) value[i] = alpha * (gate[i] > limit ? limit : gate[i]);
    context_.kernels.vector.sigmoid(value, value, n);
    for (int64_t i = 0; i < n; ++i) {
      const float g = gate[i] > limit ? limit : gate[i], s = value[i];
      slope[i] = gate[i] > limit ? 0.0f : s * (1 + alpha * g * (1 - s));
      value[i] = g * s;
      const float above = up[i] > limit ? limit : up[i];
      up[i] = (above < -limit ? -limit : above) + 1;
    }
  }
  // Whether u + 1 is where the limit cut u.
  bool flat(float linear) const { return linear >= kept_.rule.limit + 1 || linear <= 1 - kept_.rule.limit; }

  // For each weight its products over the expert's slots.
  void weights_of_experts() {
    Products products;
    for (const int64_t e : used_) {
      const int64_t slots = last(e) - first(e);
      const auto half = [&](const Weight& weight, const float* bias, Matrix gradient) {
        const Matrix rows = gradient.row_range(first(e), last(e));
        if (const Matrix dw = back_.gradient(weight); dw.data)
          products.add(dw, {{rows, nullptr, true, kept_.x, tokens(e), slots}});
        if (float* db = back_.gradient(bias)) add_column_sums(context_, rows, db);
      };
      half(input(e).up, input(e).up_bias, kept_.up);
      if (kept_.gated()) half(input(e).gate, input(e).gate_bias, kept_.gate);
      if (const Matrix dw = back_.gradient(output(e).down); dw.data)
        products.add(dw, {{dy_, tokens(e), true, weighted_.row_range(first(e), last(e)), nullptr, slots}});
      if (float* db = back_.gradient(output(e).bias))
        for (int64_t s = first(e); s < last(e); ++s)
          context_.kernels.vector.add_scaled(dy_.row(plan_.slot_token[static_cast<size_t>(s)]),
                                             plan_.slot_weight[static_cast<size_t>(s)], db, dy_.cols);
    }
    products.run(context_);
  }

  // Each slot's part of dx, then for each token the sum over its slots in the order in which combine adds them.
  void to_tokens() {
    const Matrix dx = back_.gradient(kept_.x_at);
    const Matrix parts = context_.arena.matrix(plan_.slots(), dx.cols);
    Products products;
    for (const int64_t e : used_) {
      const auto product = [&](const Weight& weight, Matrix gradient) {
        return Product{gradient.row_range(first(e), last(e)), nullptr, false,
                       as_floats(context_, weight),           nullptr, gradient.cols};
      };
      const Matrix part = parts.row_range(first(e), last(e));
      if (kept_.gated())
        products.add(part, {product(input(e).gate, kept_.gate), product(input(e).up, kept_.up)}, true);
      else
        products.add(part, {product(input(e).up, kept_.up)}, true);
    }
    products.run(context_);
    for_rows(context_, dx.rows, dx.cols, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t c = plan_.token_offset[static_cast<size_t>(t)]; c < plan_.token_offset[static_cast<size_t>(t) + 1];
             ++c)
          context_.kernels.vector.add_scaled(parts.row(plan_.token_slot[static_cast<size_t>(c)]), 1, dx.row(t),
                                             dx.cols);
    });
  }

  const Kept& kept_;
  const RoutingPlan& plan_;
  Reverse& back_;
  Context& context_;
  Matrix dy_, weighted_;
  std::vector<int64_t> used_;  // experts with slots
};

}  // namespace

void experts(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> inputs,
             std::span<const ExpertOutput> outputs, const GateRule& rule, int64_t hidden, Matrix y) {
  base::require(inputs.size() == outputs.size(), "experts", "{} first and {} second halves", inputs.size(),
                outputs.size());
  const tensor::ArenaScope scratch(context.arena);
  const Matrix h = context.arena.matrix(plan.slots(), hidden);
  if (!context.tape) {
    grouped_gated_matmul(context, x, plan, inputs, rule, h);
    grouped_down_combine(context, h, plan, outputs, y);
    return;
  }
  Tape& tape = *context.tape;
  Context quiet = context;
  quiet.tape = nullptr;
  Kept kept{plan,
            {inputs.begin(), inputs.end()},
            {outputs.begin(), outputs.end()},
            rule,
            context.precision,
            tape.save(x),
            {},
            {},
            x,
            y};
  kept.up = tape.keep(plan.slots(), hidden);
  if (!inputs.empty() && inputs.front().gate) kept.gate = tape.keep(plan.slots(), hidden);
  gated_matmul(quiet, x, plan, inputs, rule, h, {kept.gate, kept.up});
  grouped_down_combine(quiet, h, plan, outputs, y);
  tape.written(h);
  tape.record({y}, [kept = std::move(kept)](Reverse& back) { Backward(kept, back).run(); });
}

}  // namespace coterie::ops
