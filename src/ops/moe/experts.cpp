#include "ops/moe/experts.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/function_ref.h"
#include "ops/gradients.h"
#include "ops/low_rank_job.h"
#include "ops/moe/down.h"
#include "ops/moe/experts_backward.h"
#include "ops/moe/experts_share.h"
#include "ops/moe/gated_matmul.h"
#include "ops/products.h"
#include "ops/rows.h"

namespace coterie::ops {

namespace {

void drop_hidden(Context& context, const RoutingPlan& plan, const ExpertDropout& dropped, Matrix h) {
  if (dropped.rate == 0) return;
  base::require(dropped.rate > 0 && dropped.rate < 1 && std::ssize(dropped.rows) == plan.tokens, "experts",
                "a dropout of {}, {} rows are named for {} tokens", dropped.rate, dropped.rows.size(), plan.tokens);
  std::vector<uint64_t> expert(static_cast<size_t>(plan.slots()));
  for (int64_t e = 0; e < plan.experts(); ++e)
    std::fill(expert.begin() + plan.expert_offset[static_cast<size_t>(e)],
              expert.begin() + plan.expert_offset[static_cast<size_t>(e) + 1], static_cast<uint64_t>(e));
  for_rows(context, h.rows, h.cols * 8, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      drop_piece(h.row(s), 0, h.cols, dropped.rate,
                 dropped.rows[static_cast<size_t>(plan.slot_token[static_cast<size_t>(s)])],
                 dropped.place + expert[static_cast<size_t>(s)]);
  });
}

/// bf16 multiplies floats: weights of another format, which are frozen, are decoded for the call.
void decode_for_bf16(Context& context, const RoutingPlan& plan, std::vector<ExpertInput>& inputs,
                     std::vector<ExpertOutput>& outputs) {
  const auto decode = [&](Weight& weight) {
    if (!weight || weight.dtype == tensor::DType::f32) return;
    const ConstMatrix floats = as_floats(context, weight);
    const int32_t name = weight.name;
    weight = {reinterpret_cast<const std::byte*>(floats.data), tensor::DType::f32, floats.rows, floats.cols};
    weight.name = name;
  };
  for (int64_t e = 0; e < plan.experts(); ++e) {
    if (plan.tokens_of(e).empty()) continue;
    ExpertInput& in = inputs[static_cast<size_t>(e)];
    decode(in.gate), decode(in.up), decode(outputs[static_cast<size_t>(e)].down);
  }
}

/// Both halves up to the values that down reads, then `second`(h, the weights of the second half).
void forward(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> given_inputs,
             std::span<const ExpertOutput> given_outputs, const GateRule& rule, Matrix h, const ExpertDropout& dropped,
             const GatedHalves& halves, base::FunctionRef<void(std::span<const ExpertOutput>)> second) {
  std::vector<ExpertInput> inputs;
  std::vector<ExpertOutput> outputs;
  if (context.precision == Precision::bf16) {
    inputs.assign(given_inputs.begin(), given_inputs.end()), outputs.assign(given_outputs.begin(), given_outputs.end());
    decode_for_bf16(context, plan, inputs, outputs);
    given_inputs = inputs, given_outputs = outputs;
  }
  gated_matmul(context, x, plan, given_inputs, rule, h, halves);
  drop_hidden(context, plan, dropped, h);
  second(given_outputs);
}

/// Room for what the backward reads of the forward, from `take`(rows, columns).
void keep_halves(KeptOfExperts& kept, int64_t hidden, base::FunctionRef<Matrix(int64_t, int64_t)> take) {
  const RoutingPlan& plan = kept.plan;
  kept.up = take(plan.slots(), hidden);
  const auto gated = [&](int64_t e) { return !plan.tokens_of(e).empty() && kept.inputs[static_cast<size_t>(e)].gate; };
  for (int64_t e = 0; e < plan.experts() && !kept.gate.data; ++e)
    if (gated(e)) kept.gate = take(plan.slots(), hidden);
  const auto keep_low = [&](auto&& of) {
    const int64_t rank = largest_rank(plan, of);
    return rank > 0 ? take(plan.slots(), rank) : Matrix();
  };
  kept.low_up = keep_low([&](int64_t e) -> const LowRank& { return kept.inputs[static_cast<size_t>(e)].up_low; });
  if (!share_a(plan, kept.inputs))
    kept.low_gate = keep_low([&](int64_t e) -> const LowRank& { return kept.inputs[static_cast<size_t>(e)].gate_low; });
  kept.low_down = keep_low([&](int64_t e) -> const LowRank& { return kept.outputs[static_cast<size_t>(e)].low; });
}

GatedHalves halves_of(const KeptOfExperts& kept) { return {kept.gate, kept.up, kept.low_gate, kept.low_up}; }

}  // namespace

void experts(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const ExpertInput> inputs,
             std::span<const ExpertOutput> outputs, const GateRule& rule, int64_t hidden, Matrix y,
             const ExpertDropout& dropped) {
  base::require(inputs.size() == outputs.size(), "experts", "{} first and {} second halves", inputs.size(),
                outputs.size());
  const tensor::ArenaScope scratch(context.arena);
  const Matrix h = context.arena.matrix(plan.slots(), hidden);
  if (!context.tape)
    return forward(context, x, plan, inputs, outputs, rule, h, dropped, {},
                   [&](std::span<const ExpertOutput> second) { down_combine(context, h, plan, second, y, {}); });
  Tape& tape = *context.tape;
  Context quiet = context;
  quiet.tape = nullptr;
  KeptOfExperts kept{.plan = plan,
                     .inputs = {inputs.begin(), inputs.end()},
                     .outputs = {outputs.begin(), outputs.end()},
                     .rule = rule,
                     .precision = context.precision,
                     .x = tape.save(x),
                     .x_at = x,
                     .y_at = y,
                     .dropped = dropped.rate,
                     .place = dropped.place};
  if (dropped.rate > 0) kept.rows = tape.save(dropped.rows);
  keep_halves(kept, hidden, [&](int64_t rows, int64_t cols) { return tape.keep(rows, cols); });
  forward(quiet, x, plan, inputs, outputs, rule, h, dropped, halves_of(kept),
          [&](std::span<const ExpertOutput> second) { down_combine(quiet, h, plan, second, y, kept.low_down); });
  tape.written(h);
  tape.record({y}, [kept = std::move(kept)](Reverse& back) { experts_backward(kept, back); });
}

ExpertsShare::ExpertsShare(RoutingPlan plan, std::span<const ExpertInput> inputs, std::span<const ExpertOutput> outputs,
                           const GateRule& rule, int64_t hidden, const ExpertDropout& dropped)
    : kept_(std::make_unique<KeptOfExperts>(KeptOfExperts{.plan = std::move(plan),
                                                          .inputs = {inputs.begin(), inputs.end()},
                                                          .outputs = {outputs.begin(), outputs.end()},
                                                          .rule = rule,
                                                          .precision = Precision::f32,
                                                          .dropped = dropped.rate,
                                                          .place = dropped.place})),
      hidden_(hidden),
      rows_(dropped.rows) {}
ExpertsShare::~ExpertsShare() = default;
ExpertsShare::ExpertsShare(ExpertsShare&&) noexcept = default;

void ExpertsShare::forward(const Context& given, ConstMatrix x, tensor::Arena* memory, Matrix out) {
  Context context = given;
  context.tape = nullptr;
  KeptOfExperts& kept = *kept_;
  kept.precision = context.precision;
  if (memory) {
    const Matrix copy = memory->matrix(x.rows, x.cols);
    for (int64_t r = 0; r < x.rows; ++r) std::copy_n(x.row(r), x.cols, copy.row(r));
    kept.x = copy;
    if (kept.dropped > 0) {
      auto* const rows = memory->take<DropoutRow>(std::ssize(rows_));
      std::copy(rows_.begin(), rows_.end(), rows);
      kept.rows = rows;
    }
    keep_halves(kept, hidden_, [&](int64_t rows, int64_t cols) { return memory->matrix(rows, cols); });
  }
  const tensor::ArenaScope scratch(context.arena);
  const Matrix h = context.arena.matrix(kept.plan.slots(), hidden_);
  const GatedHalves halves = memory ? halves_of(kept) : GatedHalves();
  const Matrix low_down = memory ? kept.low_down : Matrix();
  ops::forward(context, x, kept.plan, kept.inputs, kept.outputs, kept.rule, h, {kept.dropped, rows_, kept.place},
               halves,
               [&](std::span<const ExpertOutput> second) { down_apart(context, h, kept.plan, second, out, low_down); });
}

void ExpertsShare::row_gradients(Reverse& back, ConstMatrix dy, std::span<const float> slot_weight,
                                 float* weight_gradient, Matrix parts) {
  kept_->plan.slot_weight.assign(slot_weight.begin(), slot_weight.end());
  base::require(std::ssize(slot_weight) == kept_->plan.slots() && dy.rows == kept_->plan.tokens, "experts share",
                "{} weights and {} rows for {} slots of {} tokens", slot_weight.size(), dy.rows, kept_->plan.slots(),
                kept_->plan.tokens);
  backward_ = std::make_unique<ExpertsBackward>(*kept_, back, dy);
  backward_->rows(weight_gradient, parts);
}

void ExpertsShare::weight_gradients() {
  backward_->weights();
  backward_.reset();
}

void experts_elsewhere(Context& context, ConstMatrix x, const RoutingPlan& plan,
                       std::shared_ptr<ExpertsElsewhere> owners, Matrix y) {
  Context quiet = context;
  quiet.tape = nullptr;
  const tensor::ArenaScope scratch(context.arena);
  const Matrix out = context.arena.matrix(plan.slots(), y.cols);
  owners->outputs(quiet, x, plan, context.tape != nullptr, out);
  combine(quiet, plan, out, y);
  if (!context.tape) return;
  context.tape->written(out);
  context.tape->record({y}, [plan, owners = std::move(owners), x, y](Reverse& back) {
    Context& backward = back.context();
    const Matrix dy = back.gradient(y), dx = back.gradient(x);
    const Matrix parts = backward.arena.matrix(plan.slots(), dx.cols);
    std::vector<float> weight_gradient(static_cast<size_t>(plan.slots()));
    owners->gradients(back, plan, dy, weight_gradient.data(), parts);
    for (size_t s = 0; plan.weight_gradient && s < weight_gradient.size(); ++s)
      plan.weight_gradient[s] += weight_gradient[s];
    add_parts(backward, plan, parts, dx);
    clear(backward, dy);
  });
}

namespace {

/// The slots of some experts alone, as a plan of their own: `slots` says which slot of the whole each of them is.
RoutingPlan part_of(const RoutingPlan& plan, std::span<const int32_t> ids, std::vector<int32_t>& slots) {
  std::vector<char> wanted(static_cast<size_t>(plan.experts()));
  for (const int32_t e : ids) {
    base::require(e >= 0 && e < plan.experts(), "expert_outputs", "expert {} of {}", e, plan.experts());
    wanted[static_cast<size_t>(e)] = 1;
  }
  RoutingPlan part;
  part.tokens = plan.tokens;
  part.expert_offset.push_back(0);
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const int32_t first = plan.expert_offset[static_cast<size_t>(e)],
                  last = plan.expert_offset[static_cast<size_t>(e) + 1];
    for (int32_t s = first; wanted[static_cast<size_t>(e)] && s < last; ++s) {
      slots.push_back(s);
      part.slot_token.push_back(plan.slot_token[static_cast<size_t>(s)]);
    }
    part.expert_offset.push_back(static_cast<int32_t>(std::ssize(slots)));
  }
  return part;
}

/// `first`(plan, h): the first halves of a plan's experts.
void outputs_of(Context& context, const RoutingPlan& plan, std::span<const int32_t> ids,
                std::span<const ExpertOutput> outputs, int64_t hidden, Matrix out,
                base::FunctionRef<void(const RoutingPlan&, Matrix)> first) {
  refuse_tape(context, "expert_outputs");
  base::require(out.rows == plan.slots(), "expert_outputs", "out has {} rows, the plan {} slots", out.rows,
                plan.slots());
  std::vector<int32_t> slots;
  const RoutingPlan part = part_of(plan, ids, slots);
  const tensor::ArenaScope scratch(context.arena);
  const Matrix h = context.arena.matrix(part.slots(), hidden);
  first(part, h);
  // Slots of all experts are those of the whole, in order.
  if (part.slots() == plan.slots()) return grouped_down(context, h, part, outputs, out);
  const Matrix made = context.arena.matrix(part.slots(), out.cols);
  grouped_down(context, h, part, outputs, made);
  for_rows(context, made.rows, made.cols, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) std::copy_n(made.row(s), made.cols, out.row(slots[static_cast<size_t>(s)]));
  });
}

}  // namespace

void expert_outputs(Context& context, ConstMatrix x, const RoutingPlan& plan, std::span<const int32_t> ids,
                    std::span<const ExpertInput> inputs, std::span<const ExpertOutput> outputs, const GateRule& rule,
                    int64_t hidden, Matrix out) {
  outputs_of(context, plan, ids, outputs, hidden, out,
             [&](const RoutingPlan& part, Matrix h) { gated_matmul(context, x, part, inputs, rule, h, {}); });
}

void expert_outputs(Context& context, const FormedRows& x, const RoutingPlan& plan, std::span<const int32_t> ids,
                    std::span<const ExpertInput> inputs, std::span<const ExpertOutput> outputs, const GateRule& rule,
                    int64_t hidden, Matrix out) {
  const bool low = std::any_of(ids.begin(), ids.end(), [&](int32_t e) {
    return inputs[static_cast<size_t>(e)].gate_low || inputs[static_cast<size_t>(e)].up_low;
  });
  if (!low)
    return outputs_of(context, plan, ids, outputs, hidden, out,
                      [&](const RoutingPlan& part, Matrix h) { gated_matmul(context, x, part, inputs, rule, h); });
  // A LoRA reads rows side by side.
  base::require(x.form == kernels::ActivationForm::floats, "expert_outputs", "a LoRA is given quantised rows");
  const tensor::ArenaScope scratch(context.arena);
  const Matrix rows = context.arena.matrix(x.count(), x.cols);
  for (int64_t r = 0; r < rows.rows; ++r)
    std::copy_n(reinterpret_cast<const float*>(x.rows[static_cast<size_t>(r)]), x.cols, rows.row(r));
  expert_outputs(context, rows, plan, ids, inputs, outputs, rule, hidden, out);
}

}  // namespace coterie::ops
