#include "layers/attention/latent.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "layers/attention/segments.h"
#include "layers/overlay.h"
#include "ops/elementwise.h"

namespace coterie::layers {

ops::CacheLayout cache_layout(const LatentAttentionSpec& spec, tensor::DType dtype) {
  return {1, spec.rope_dim + spec.kv_rank, spec.kv_rank, dtype};
}

void LatentAttention::visit(TensorVisitor& visitor, const std::string& path) {
  const int64_t h = spec_.heads, q = h * (spec_.nope_dim + spec_.rope_dim);
  if (spec_.q_rank > 0) {
    visitor.overlaid(path + ".q_a", Place::mixer, spec_.q_rank, width_, spec_.bias, q_a_);
    visitor.vector({path + ".q_a_norm", Place::norms}, spec_.q_rank, q_a_norm_);
    visitor.overlaid(path + ".q_b", Place::mixer, q, spec_.q_rank, false, q_b_);
  } else {
    visitor.overlaid(path + ".q", Place::mixer, q, width_, false, q_);
  }
  visitor.overlaid(path + ".kv_a", Place::mixer, spec_.kv_rank + spec_.rope_dim, width_, spec_.bias, kv_a_);
  visitor.vector({path + ".kv_a_norm", Place::norms}, spec_.kv_rank, kv_a_norm_);
  visitor.stack({.path = path + ".k_b", .place = Place::mixer, .merged_with = spec_.value_dim}, h, spec_.kv_rank,
                spec_.nope_dim, k_b_);
  visitor.stack({.path = path + ".v_b", .place = Place::mixer, .merged_with = spec_.nope_dim}, h, spec_.value_dim,
                spec_.kv_rank, v_b_);
  visitor.overlaid(path + ".o", Place::mixer, width_, h * spec_.value_dim, spec_.bias, o_);
}

void LatentAttention::arrange() {
  const auto h = static_cast<size_t>(spec_.heads);
  base::require(k_b_.size() == h && v_b_.size() == h, "latent attention", "{} and {} heads were bound, {} expected",
                k_b_.size(), v_b_.size(), h);
  absorb_.resize(h), expand_.resize(h);
  for (size_t i = 0; i < h; ++i) absorb_[i].down = k_b_[i], expand_[i].up = v_b_[i];
}

namespace {

/// "Expert" h for the h-th of the H rows of each token: matmuls with a weight for each head are grouped matmuls, one
/// call for all heads. Slot h * N + n is row n * H + h.
ops::RoutingPlan head_plan(int64_t tokens, int64_t heads) {
  ops::RoutingPlan plan;
  plan.tokens = tokens * heads;
  const auto rows = static_cast<size_t>(plan.tokens);
  plan.slot_weight.assign(rows, 1.0f);
  plan.slot_token.resize(rows), plan.token_slot.resize(rows), plan.token_offset.resize(rows + 1);
  for (int64_t h = 0; h <= heads; ++h) plan.expert_offset.push_back(static_cast<int32_t>(h * tokens));
  for (int64_t n = 0; n < tokens; ++n)
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t row = n * heads + h, slot = h * tokens + n;
      plan.slot_token[static_cast<size_t>(slot)] = static_cast<int32_t>(row);
      plan.token_slot[static_cast<size_t>(row)] = static_cast<int32_t>(slot);
      plan.token_offset[static_cast<size_t>(row)] = static_cast<int32_t>(row);
    }
  plan.token_offset[rows] = static_cast<int32_t>(rows);
  return plan;
}

}  // namespace

void LatentAttention::queries(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix q) const {
  if (spec_.q_rank == 0) return project(batch, x, q_, q);
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix low = context.arena.matrix(x.rows, spec_.q_rank);
  project(batch, x, q_a_, low);
  ops::rms_norm(context, low, q_a_norm_.data(), spec_.norm_eps, low);
  project(batch, low, q_b_, q);
}

// Under a tape a head's products are matmuls of its own, which have a way back. The bits are those of the grouped ones.
void LatentAttention::absorb(ops::Context& context, const ops::RoutingPlan& by_head, tensor::ConstMatrix q,
                             tensor::Matrix absorbed) const {
  const int64_t n = q.rows, h = spec_.heads, nope = spec_.nope_dim, rope = spec_.rope_dim, rank = spec_.kv_rank;
  const int64_t key = rope + rank;
  const auto of_head = [&](int64_t i) { return absorbed.col_range(i * key, (i + 1) * key); };
  for (int64_t i = 0; i < h; ++i)
    ops::copy(context, q.col_range(i * (nope + rope) + nope, (i + 1) * (nope + rope)), of_head(i).col_range(0, rope));
  if (context.tape) {
    for (int64_t i = 0; i < h; ++i)
      ops::matmul(context, q.col_range(i * (nope + rope), i * (nope + rope) + nope), k_b_[static_cast<size_t>(i)],
                  nullptr, of_head(i).col_range(rope, key));
    return;
  }
  const tensor::Matrix slots = context.arena.matrix(h * n, nope);
  for (int64_t i = 0; i < h; ++i)
    ops::copy(context, q.col_range(i * (nope + rope), i * (nope + rope) + nope), slots.row_range(i * n, (i + 1) * n));
  ops::grouped_down_combine(context, slots, by_head, absorb_, {absorbed.data + rope, n * h, rank, key});
}

void LatentAttention::expand(ops::Context& context, const ops::RoutingPlan& by_head, tensor::ConstMatrix mixed,
                             tensor::Matrix out) const {
  const int64_t n = mixed.rows, h = spec_.heads, rank = spec_.kv_rank, value = spec_.value_dim;
  if (context.tape) {
    for (int64_t i = 0; i < h; ++i)
      ops::matmul(context, mixed.col_range(i * rank, (i + 1) * rank), v_b_[static_cast<size_t>(i)], nullptr,
                  out.col_range(i * value, (i + 1) * value));
    return;
  }
  const tensor::Matrix slots = context.arena.matrix(h * n, value);
  ops::grouped_gated_matmul(context, {mixed.data, n * h, rank}, by_head, expand_, ops::Activation::identity, slots);
  for (int64_t i = 0; i < h; ++i)
    ops::copy(context, slots.row_range(i * n, (i + 1) * n), out.col_range(i * value, (i + 1) * value));
}

void LatentAttention::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const int64_t n = batch.tokens(), h = spec_.heads;
  const int64_t rope = spec_.rope_dim, rank = spec_.kv_rank, key = rope + rank;
  const ops::RoutingPlan by_head = head_plan(n, h);

  // Keys: the shared rotary part first, then the latent, which is also the value.
  const tensor::Matrix keys = context.arena.matrix(n, key);
  {
    const tensor::ArenaScope inner(context.arena);
    const tensor::Matrix low = context.arena.matrix(n, rank + rope);
    project(batch, x, kv_a_, low);
    ops::rms_norm(context, low.col_range(0, rank), kv_a_norm_.data(), spec_.norm_eps, keys.col_range(rope, key));
    ops::copy(context, low.col_range(rank, rank + rope), keys.col_range(0, rope));
  }
  rope_.forward(batch, 1, keys);

  // Queries in the same order, the part without positions taken through W_k.
  const tensor::Matrix absorbed = context.arena.matrix(n, h * key);
  {
    const tensor::ArenaScope inner(context.arena);
    const tensor::Matrix q = context.arena.matrix(n, h * (spec_.nope_dim + rope));
    queries(batch, x, q);
    absorb(context, by_head, q, absorbed);
  }
  rope_.forward(batch, h, absorbed);

  ops::AttentionShape shape;
  shape.heads = h, shape.scale = spec_.scale;
  tensor::DType dtype = tensor::DType::f32;
  const std::vector<ops::Segment> rows = segments(batch, layer, dtype);
  shape.layout = cache_layout(spec_, dtype);
  const tensor::Matrix mixed = context.arena.matrix(n, h * rank);
  ops::append_cache(context, shape.layout, keys, keys.col_range(rope, key), rows);
  ops::attention(context, shape, absorbed, rows, mixed);

  const tensor::Matrix out = context.arena.matrix(n, h * spec_.value_dim);
  expand(context, by_head, mixed, out);
  project(batch, out, o_, y);
}

}  // namespace coterie::layers
