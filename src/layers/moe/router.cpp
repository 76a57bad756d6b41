#include "layers/moe/router.h"

#include "layers/moe/choose.h"
#include "layers/moe/router_gradient.h"
#include "ops/matmul.h"

namespace coterie::layers {

void Router::visit(TensorVisitor& visitor, const std::string& path) {
  visitor.matrix({path, Place::router, true}, spec_.experts, width_, weight_);
  if (spec_.bias) visitor.vector({path + ".bias", Place::router}, spec_.experts, bias_);
  if (spec_.selection_bias)
    visitor.vector({.path = path + ".selection_bias", .place = Place::router, .buffer = true}, spec_.experts,
                   selection_bias_);
}

ops::RoutingPlan Router::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x) const {
  ops::Context context = batch.context;
  context.precision = ops::Precision::f32;
  const tensor::ArenaScope scratch(context.arena);
  const int64_t n = x.rows, e = spec_.experts, k = spec_.experts_per_token;
  const tensor::Matrix logits = context.arena.matrix(n, e);
  ops::matmul(context, x, weight_, bias_.data(), logits);

  auto* ids = context.arena.take<int32_t>(n * k);
  auto* weights = context.arena.take<float>(n * k);
  const int64_t scratch_size = choose_scratch(spec_);
  auto* choosing = context.arena.take<double>(context.pool.threads() * scratch_size);
  const auto choose_rows = [&](const SequenceRows& s, int64_t begin, int64_t end, int worker) {
    for (int64_t row = begin; row < end; ++row)
      choose(spec_, logits.row(row), selection_bias_.data(),
             {s.random_key, layer, batch.positions[static_cast<size_t>(row)]},
             {choosing + worker * scratch_size, static_cast<size_t>(scratch_size)}, ids + row * k, weights + row * k);
  };
  for (const SequenceRows& s : batch.sequences) {
    constexpr int64_t kWorthWaking = 16;  // rows; fewer cost less than starting the other threads
    if (s.rows < kWorthWaking)
      choose_rows(s, s.first_row, s.first_row + s.rows, 0);
    else
      context.pool.split(s.rows, 1, [&](int64_t begin, int64_t end, int worker) {
        choose_rows(s, s.first_row + begin, s.first_row + end, worker);
      });
  }
  ops::RoutingPlan plan =
      ops::make_plan({ids, static_cast<size_t>(n * k)}, {weights, static_cast<size_t>(n * k)}, n, k, e);
  const Routed routed = {.layer = layer,
                         .plan = plan,
                         .logits = logits,
                         .chosen = {ids, static_cast<size_t>(n * k)},
                         .sequences = batch.sequences};
  if (batch.tap) batch.tap->routed(routed);
  if (context.tape) record_router(batch, spec_, routed, plan);
  return plan;
}

}  // namespace coterie::layers
