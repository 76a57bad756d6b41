#include "layers/attention/head_experts.h"

#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/moe/slots.h"

namespace coterie::layers {

using tensor::ConstMatrix;
using tensor::Matrix;

HeadExperts::HeadExperts(const AttentionSpec& spec, int64_t width)
    : spec_(spec), width_(width), router_(*spec.experts, width, true) {}

void HeadExperts::visit(TensorVisitor& visitor, const std::string& path) {
  router_.visit(visitor, path + ".router");
  const int64_t e = spec_.experts->experts;
  visitor.stack({path + ".experts.q", Place::mixer}, e, spec_.kv_heads * spec_.head_dim, width_, q_);
  visitor.stack({path + ".experts.o", Place::mixer}, e, width_, spec_.kv_heads * spec_.value_dim, o_);
  if (spec_.o_bias) visitor.vector({path + ".experts.bias", Place::mixer}, width_, bias_);
}

namespace {

/// Each expert's rows by its own weight: y[s] = W_e · x[s]. x [slots, inputs], y [slots, outputs].
void project_slots(ops::Context& context, ConstMatrix x, const ops::RoutingPlan& plan,
                   const std::vector<tensor::Weight>& weights, Matrix y) {
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const int64_t begin = plan.expert_offset[static_cast<size_t>(e)];
    const int64_t end = plan.expert_offset[static_cast<size_t>(e) + 1];
    if (begin == end) continue;
    ops::matmul(context, x.row_range(begin, end), weights[static_cast<size_t>(e)], nullptr, y.row_range(begin, end));
  }
}

/// The matrix's memory as rows of `cols`.
Matrix in_rows_of(Matrix x, int64_t cols) { return {x.data, x.rows * x.cols / cols, cols}; }
ConstMatrix in_rows_of(ConstMatrix x, int64_t cols) { return {x.data, x.rows * x.cols / cols, cols}; }

/// For each head of each slot (slot by slot, KV head by KV head) its row among the heads of all tokens, where the K of
/// one KV head lie side by side. `by_token`: the other way round.
std::vector<int64_t> head_rows(const ops::RoutingPlan& plan, int64_t kv_heads, int64_t k, bool by_token) {
  std::vector<int64_t> rows(static_cast<size_t>(plan.slots() * kv_heads));
  for (int64_t t = 0; t < plan.tokens; ++t)
    for (int64_t i = 0; i < k; ++i) {
      const int64_t slot = plan.token_slot[static_cast<size_t>(plan.token_offset[static_cast<size_t>(t)] + i)];
      for (int64_t h = 0; h < kv_heads; ++h) {
        const int64_t of_slot = slot * kv_heads + h, of_token = (t * kv_heads + h) * k + i;
        rows[static_cast<size_t>(by_token ? of_token : of_slot)] = by_token ? of_slot : of_token;
      }
    }
  return rows;
}

}  // namespace

ops::RoutingPlan HeadExperts::queries(const Batch& batch, int64_t layer, ConstMatrix x, Matrix q) const {
  ops::Context& context = batch.context;
  ops::RoutingPlan plan = router_.forward(batch, layer, x);
  const tensor::ArenaScope scratch(context.arena);
  const Matrix inputs = context.arena.matrix(plan.slots(), x.cols);
  const Matrix heads = context.arena.matrix(plan.slots(), spec_.kv_heads * spec_.head_dim);
  ops::to_slots(context, x, plan, ops::ByWeight::no, inputs);
  project_slots(context, inputs, plan, q_, heads);
  ops::copy_rows(context, in_rows_of(heads, spec_.head_dim),
                 head_rows(plan, spec_.kv_heads, spec_.experts->experts_per_token, true),
                 in_rows_of(q, spec_.head_dim));
  return plan;
}

void HeadExperts::output(const Batch& batch, const ops::RoutingPlan& plan, ConstMatrix a, Matrix y) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const Matrix heads = context.arena.matrix(plan.slots(), spec_.kv_heads * spec_.value_dim);
  const Matrix outputs = context.arena.matrix(plan.slots(), width_);
  ops::copy_rows(context, in_rows_of(a, spec_.value_dim),
                 head_rows(plan, spec_.kv_heads, spec_.experts->experts_per_token, false),
                 in_rows_of(heads, spec_.value_dim));
  project_slots(context, heads, plan, o_, outputs);
  ops::from_slots(context, outputs, plan, ops::ByWeight::yes, y);
  if (spec_.o_bias) ops::add_to_rows(context, bias_.data(), y);
}

}  // namespace coterie::layers
