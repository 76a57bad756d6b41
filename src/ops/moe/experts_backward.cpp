#include "ops/moe/experts_backward.h"

#include <algorithm>
#include <functional>

#include "ops/gradients.h"
#include "ops/low_rank_job.h"
#include "ops/matmul_job.h"
#include "ops/products.h"
#include "ops/rows.h"

namespace coterie::ops {

/// The steps of the backward share buffers of [slots, F]: what was kept becomes, in place, the gradients of gate and
/// up, and `weighted` what down was applied to, times the slot's weight.
class ExpertsBackward::Work {
 public:
  Work(const KeptOfExperts& kept, Reverse& back, ConstMatrix dy)
      : kept_(kept), plan_(kept.plan), back_(back), context_(back.context()), dy_(dy) {
    context_.precision = kept.precision;
    weighted_ = context_.arena.matrix(plan_.slots(), kept.up.cols);
    for (int64_t e = 0; e < plan_.experts(); ++e)
      if (!plan_.tokens_of(e).empty()) used_.push_back(e);
  }

  void rows(float* weight_gradient, Matrix parts) {
    lora_of_down();
    through_down(weight_gradient);
    loras_of_inputs();
    to_slots(parts);
  }

  void weights() {
    weights_of_experts();
    weights_of_loras();
  }

 private:
  int64_t first(int64_t e) const { return plan_.expert_offset[static_cast<size_t>(e)]; }
  int64_t last(int64_t e) const { return plan_.expert_offset[static_cast<size_t>(e) + 1]; }
  const int32_t* tokens(int64_t e) const { return plan_.slot_token.data() + first(e); }
  const ExpertInput& input(int64_t e) const { return kept_.inputs[static_cast<size_t>(e)]; }
  const ExpertOutput& output(int64_t e) const { return kept_.outputs[static_cast<size_t>(e)]; }

  // Experts, so many at a time that their weights, where they must be decoded, take no more than 64 MB.
  template <typename F>
  void for_groups(const F& values_of, const std::function<void(std::span<const int64_t>)>& body) {
    constexpr int64_t kMost = 16 << 20;
    for (size_t begin = 0, end = 0; begin < used_.size(); begin = end) {
      int64_t values = 0;
      do values += values_of(used_[end++]);
      while (end < used_.size() && values + values_of(used_[end]) <= kMost);
      const tensor::ArenaScope scope(context_.arena);
      body(std::span(used_).subspan(begin, end - begin));
    }
  }
  static int64_t decoded(const Weight& weight) {
    return weight.dtype == tensor::DType::f32 ? 0 : weight.rows * weight.cols;
  }

  // dlow = scale · dy · B, what A of down gets and hands on to h.
  void lora_of_down() {
    if (!kept_.low_down.data) return;
    dlow_down_ = context_.arena.matrix(plan_.slots(), kept_.low_down.cols);
    Products products;
    for (const int64_t e : used_)
      if (const LowRank& over = output(e).low)
        products.add(of(dlow_down_, e, over), {{dy_, tokens(e), false, floats(over.b), nullptr, dy_.cols}}, true);
    products.run(context_);
    for (const int64_t e : used_)
      if (const LowRank& over = output(e).low) scale_rows(of(dlow_down_, e, over), over.scale, nullptr);
  }

  // dlow = scale · dgate · B, of gate and up added up where they have one A.
  void loras_of_inputs() {
    if (!kept_.low_up.data && !kept_.low_gate.data) return;
    Products products;
    const auto make = [&](Matrix& into, const Matrix& low) {
      if (low.data) into = context_.arena.matrix(plan_.slots(), low.cols);
    };
    make(dlow_gate_, kept_.low_gate), make(dlow_up_, kept_.low_up);
    for (const int64_t e : used_) {
      const ExpertInput& in = input(e);
      const auto product = [&](Matrix gradient, const LowRank& over) {
        return Product{gradient.row_range(first(e), last(e)), nullptr, false, floats(over.b), nullptr, gradient.cols};
      };
      if (in.gate_low && dlow_gate_.data)
        products.add(of(dlow_gate_, e, in.gate_low), {product(kept_.gate, in.gate_low)}, true);
      if (!in.up_low) continue;
      if (in.gate_low && !dlow_gate_.data)
        products.add(of(dlow_up_, e, in.up_low), {product(kept_.gate, in.gate_low), product(kept_.up, in.up_low)},
                     true);
      else
        products.add(of(dlow_up_, e, in.up_low), {product(kept_.up, in.up_low)}, true);
    }
    products.run(context_);
    for (const int64_t e : used_) {
      if (input(e).gate_low && dlow_gate_.data)
        scale_rows(of(dlow_gate_, e, input(e).gate_low), input(e).gate_low.scale, nullptr);
      if (input(e).up_low) scale_rows(of(dlow_up_, e, input(e).up_low), input(e).up_low.scale, nullptr);
    }
  }

  // dA += dlowᵀ · x, dB += scale · dyᵀ · low.
  void weights_of_loras() {
    Products products;
    for (const int64_t e : used_) {
      const int64_t slots = last(e) - first(e);
      const auto half = [&](const LowRank& over, Matrix low, Matrix dlow, Matrix gradient, bool scales) {
        if (!over) return;
        if (scales) scale_rows(of(low, e, over), over.scale, nullptr);
        if (const Matrix db = back_.gradient(over.b); db.data)
          products.add(db, {{gradient.row_range(first(e), last(e)), nullptr, true, of(low, e, over), nullptr, slots}});
        if (const Matrix da = back_.gradient(over.a); dlow.data && da.data)
          products.add(da, {{of(dlow, e, over), nullptr, true, kept_.x, tokens(e), slots}});
      };
      const ExpertInput& in = input(e);
      half(in.up_low, kept_.low_up, dlow_up_, kept_.up, true);
      if (kept_.low_gate.data)
        half(in.gate_low, kept_.low_gate, dlow_gate_, kept_.gate, true);
      else
        half(in.gate_low, kept_.low_up, {}, kept_.gate, false);
      const LowRank& down = output(e).low;
      if (!down) continue;
      scale_rows(of(kept_.low_down, e, down), down.scale, plan_.slot_weight.data() + first(e));
      if (const Matrix db = back_.gradient(down.b); db.data)
        products.add(db, {{dy_, tokens(e), true, of(kept_.low_down, e, down), nullptr, slots}});
      if (const Matrix da = back_.gradient(down.a); da.data)
        products.add(
            da, {{of(dlow_down_, e, down), nullptr, true, weighted_.row_range(first(e), last(e)), nullptr, slots}});
    }
    products.run(context_);
  }

  /// The rows and the rank of expert e.
  Matrix of(Matrix low, int64_t e, const LowRank& over) const {
    return low.row_range(first(e), last(e)).col_range(0, over.a.rows);
  }
  ConstMatrix floats(const Weight& weight) { return as_floats(context_, weight); }
  void scale_rows(Matrix m, float factor, const float* by_row) const {
    for (int64_t r = 0; r < m.rows; ++r)
      context_.kernels.vector.scale(m.row(r), by_row ? factor * by_row[r] : factor, m.cols);
  }

  // dh = downᵀ · dy, a piece at a time, and while it is in cache the activation's part. The gradient by a slot's weight
  // is dh · h + dy · bias: pieces leave their sums apart, to be added in order.
  void through_down(float* weight_gradient) {
    constexpr int64_t kSlots = 240, kCols = 192;
    struct Tile {
      int64_t expert, slot, slots, col, cols;
    };
    const int64_t hidden = kept_.up.cols;
    std::vector<ConstMatrix> downs(static_cast<size_t>(plan_.experts()));
    const Matrix sums = context_.arena.matrix((hidden + kCols - 1) / kCols, plan_.slots());
    const auto bytes = [](int64_t floats) { return floats * static_cast<int64_t>(sizeof(float)); };
    const WorkerScratch gemm_scratch(context_, bytes(gemm_of(context_).scratch_floats));
    const WorkerScratch piece_scratch(context_, bytes((kSlots + 2) * kCols));
    std::vector<Tile> pieces;
    const auto run_piece = [&](int64_t index, int worker) {
      const Tile& p = pieces[static_cast<size_t>(index)];
      float* const scratch = reinterpret_cast<float*>(piece_scratch.of(worker));
      const Matrix dh(scratch + 2 * kCols, p.slots, p.cols, kCols);
      const auto run = [&](const Product& product, bool accumulate) {
        kernels::GemmTask task = gemm_task(product, dh, 0, p.slots, 0, p.cols);
        task.b += p.col, task.accumulate = accumulate;
        task.scratch = reinterpret_cast<float*>(gemm_scratch.of(worker));
        gemm_of(context_).run(task);
      };
      run({dy_, plan_.slot_token.data() + p.slot, false, downs[static_cast<size_t>(p.expert)], nullptr, dy_.cols},
          false);
      if (const LowRank& over = output(p.expert).low)
        run({dlow_down_.row_range(p.slot, p.slot + p.slots),
             nullptr,
             false,
             {reinterpret_cast<const float*>(over.a.data), over.a.rows, over.a.cols},
             nullptr,
             over.a.rows},
            true);
      for (int64_t i = 0; i < p.slots; ++i) {
        drop(p.slot + i, p.expert, p.col, p.cols, dh.row(i));
        sums.row(p.col / kCols)[p.slot + i] =
            activate_back(p.slot + i, p.col, p.cols, dh.row(i), scratch, scratch + kCols);
        drop(p.slot + i, p.expert, p.col, p.cols, weighted_.row(p.slot + i) + p.col);
      }
    };
    for_groups([&](int64_t e) { return decoded(output(e).down); },
               [&](std::span<const int64_t> group) {
                 pieces.clear();
                 for (const int64_t e : group) {
                   downs[static_cast<size_t>(e)] = as_floats(context_, output(e).down);
                   for (int64_t s = first(e); s < last(e); s += kSlots)
                     for (int64_t c = 0; c < hidden; c += kCols)
                       pieces.push_back({e, s, std::min(kSlots, last(e) - s), c, std::min(kCols, hidden - c)});
                 }
                 context_.pool.each(std::ssize(pieces), run_piece);
               });
    if (!weight_gradient) return;
    for (int64_t s = 0; s < plan_.slots(); ++s)
      for (int64_t r = 0; r < sums.rows; ++r) weight_gradient[s] += sums.row(r)[s];
    for (const int64_t e : used_) {
      const float* bias = output(e).bias;
      for (int64_t s = first(e); bias && s < last(e); ++s) {
        double along = 0;
        const float* dy = dy_.row(plan_.slot_token[static_cast<size_t>(s)]);
        for (int64_t i = 0; i < dy_.cols; ++i) along += static_cast<double>(dy[i]) * static_cast<double>(bias[i]);
        weight_gradient[s] += static_cast<float>(along);
      }
    }
  }

  // As the forward dropped h: its gradient, and what down was applied to.
  void drop(int64_t slot, int64_t expert, int64_t col, int64_t cols, float* values) const {
    if (kept_.dropped == 0) return;
    drop_piece(values, col, cols, kept_.dropped, kept_.rows[plan_.slot_token[static_cast<size_t>(slot)]],
               kept_.place + static_cast<uint64_t>(expert));
  }

  // Returns dh · h; `value` and `slope` are scratch.
  float activate_back(int64_t slot, int64_t col, int64_t cols, const float* dh, float* value, float* slope) const {
    const float weight = plan_.slot_weight[static_cast<size_t>(slot)];
    float *const up = kept_.up.row(slot) + col, *const weighted = weighted_.row(slot) + col;
    float* const gate = kept_.gated() ? kept_.gate.row(slot) + col : up;
    if (kept_.rule.limit == 0)
      return context_.kernels.training.gate_back(
          {kept_.rule.activation, weight, dh, gate, kept_.gated() ? up : nullptr, weighted, cols});
    if (kept_.rule.clamped) return clamped_back(weight, dh, gate, up, weighted, value, slope, cols);
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

  // The backward pass of min(act(gate), limit) * clamp(up): as without limits, but nothing passes where one cut.
  float clamped_back(float weight, const float* dh, float* gate, float* up, float* weighted, float* value,
                     float* linear, int64_t n) const {
    const float limit = kept_.rule.limit;
    std::copy_n(gate, n, value), std::copy_n(up, n, linear);
    context_.kernels.vector.activate(kept_.rule.activation, value, nullptr, n);
    for (int64_t i = 0; i < n; ++i) up[i] = std::clamp(up[i], -limit, limit);
    context_.kernels.training.gate_back({kept_.rule.activation, weight, dh, gate, up, weighted, n});
    float along[4] = {};
    for (int64_t i = 0; i < n; ++i) {
      const float u = std::clamp(linear[i], -limit, limit), g = std::min(value[i], limit);
      along[i % 4] += dh[i] * (g * u);
      if (value[i] > limit) gate[i] = 0, up[i] = weight * dh[i] * g, weighted[i] = weight * (g * u);
      if (linear[i] != u) up[i] = 0;
    }
    return (along[0] + along[1]) + (along[2] + along[3]);
  }

  // The clamped SwiGLU's value and slope: g · sigmoid(alpha g) and its slope, which is 0 where the limit cut; `up`
  // becomes u + 1.
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

  // Each slot's part of dx.
  void to_slots(Matrix parts) {
    for_groups([&](int64_t e) { return decoded(input(e).up) + decoded(input(e).gate); },
               [&](std::span<const int64_t> group) {
                 Products products;
                 for (const int64_t e : group) {
                   std::vector<Product> chain;
                   const auto add = [&](const Weight& weight, Matrix gradient) {
                     chain.push_back({gradient.row_range(first(e), last(e)), nullptr, false,
                                      as_floats(context_, weight), nullptr, gradient.cols});
                   };
                   if (kept_.gated()) add(input(e).gate, kept_.gate);
                   add(input(e).up, kept_.up);
                   const auto add_low = [&](const LowRank& over, Matrix dlow) {
                     if (over && dlow.data)
                       chain.push_back({of(dlow, e, over), nullptr, false, floats(over.a), nullptr, over.a.rows});
                   };
                   add_low(input(e).gate_low, dlow_gate_), add_low(input(e).up_low, dlow_up_);
                   products.add(parts.row_range(first(e), last(e)), chain, true);
                 }
                 products.run(context_);
               });
  }

  const KeptOfExperts& kept_;
  const RoutingPlan& plan_;
  Reverse& back_;
  Context& context_;
  ConstMatrix dy_;
  Matrix weighted_;
  Matrix dlow_gate_, dlow_up_, dlow_down_;  // [slots, r]
  std::vector<int64_t> used_;               // experts with slots
};

ExpertsBackward::ExpertsBackward(const KeptOfExperts& kept, Reverse& back, ConstMatrix dy)
    : work_(std::make_unique<Work>(kept, back, dy)) {}
ExpertsBackward::~ExpertsBackward() = default;
void ExpertsBackward::rows(float* weight_gradient, Matrix parts) { work_->rows(weight_gradient, parts); }
void ExpertsBackward::weights() { work_->weights(); }

void add_parts(Context& context, const RoutingPlan& plan, ConstMatrix parts, Matrix dx) {
  for_rows(context, dx.rows, dx.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t c = plan.token_offset[static_cast<size_t>(t)]; c < plan.token_offset[static_cast<size_t>(t) + 1];
           ++c)
        context.kernels.vector.add_scaled(parts.row(plan.token_slot[static_cast<size_t>(c)]), 1, dx.row(t), dx.cols);
  });
}

void experts_backward(const KeptOfExperts& kept, Reverse& back) {
  const Matrix dy = back.gradient(kept.y_at), dx = back.gradient(kept.x_at);
  const Matrix parts = back.context().arena.matrix(kept.plan.slots(), dx.cols);
  ExpertsBackward backward(kept, back, dy);
  backward.rows(kept.plan.weight_gradient, parts);
  backward.weights();
  add_parts(back.context(), kept.plan, parts, dx);
  clear(back.context(), dy);
}

}  // namespace coterie::ops
