#include "layers/attention/latent.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "layers/attention/segments.h"
#include "layers/lora.h"
#include "layers/step_share.h"
#include "ops/elementwise.h"

namespace coterie::layers {

ops::CacheLayout cache_layout(const LatentAttentionSpec& spec, tensor::DType dtype) {
  return {1, spec.rope_dim + spec.kv_rank, spec.kv_rank, dtype};
}

void LatentAttention::visit(TensorVisitor& visitor, const std::string& path) {
  const int64_t h = spec_.heads, q = h * (spec_.nope_dim + spec_.rope_dim);
  if (spec_.q_rank > 0) {
    visitor.adaptable(path + ".q_a", Place::mixer, spec_.q_rank, width_, spec_.bias, q_a_);
    visitor.vector({path + ".q_a_norm", Place::norms}, spec_.q_rank, q_a_norm_);
    visitor.adaptable(path + ".q_b", Place::mixer, q, spec_.q_rank, false, q_b_);
  } else {
    visitor.adaptable(path + ".q", Place::mixer, q, width_, false, q_);
  }
  if (indexer_) indexer_->visit(visitor, path + ".indexer");
  visitor.adaptable(path + ".kv_a", Place::mixer, spec_.kv_rank + spec_.rope_dim, width_, spec_.bias, kv_a_);
  visitor.vector({path + ".kv_a_norm", Place::norms}, spec_.kv_rank, kv_a_norm_);
  visitor.stack({.path = path + ".k_b", .place = Place::mixer, .merged_with = spec_.value_dim}, h, spec_.kv_rank,
                spec_.nope_dim, k_b_);
  visitor.stack({.path = path + ".v_b", .place = Place::mixer, .merged_with = spec_.nope_dim}, h, spec_.value_dim,
                spec_.kv_rank, v_b_);
  visitor.adaptable(path + ".o", Place::mixer, width_, h * spec_.value_dim, spec_.bias, o_);
  if (spec_.gate.shape == OutputGate::Shape::per_head)
    visitor.adaptable(path + ".gate", Place::mixer, h, width_, false, gate_);
}

void LatentAttention::arrange() {
  const auto h = static_cast<size_t>(spec_.heads);
  base::require(k_b_.size() == h && v_b_.size() == h, "latent attention", "{} and {} heads were bound, {} expected",
                k_b_.size(), v_b_.size(), h);
}

void LatentAttention::queries(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix latent,
                              tensor::Matrix q) const {
  if (spec_.q_rank == 0) return project(batch, x, q_, q);
  project(batch, x, q_a_, latent);
  ops::rms_norm(batch.context, latent, q_a_norm_.data(), spec_.norm_eps, latent);
  project(batch, latent, q_b_, q);
}

void LatentAttention::absorb(ops::Context& context, tensor::ConstMatrix q, tensor::Matrix absorbed) const {
  const int64_t rows = q.rows * spec_.heads, nope = spec_.nope_dim, rope = spec_.rope_dim, rank = spec_.kv_rank;
  // Row by row of a token's heads: the part without positions goes through W_k, the rotary one before it.
  const tensor::ConstMatrix heads(q.data, rows, nope + rope);
  const tensor::Matrix keys(absorbed.data, rows, rope + rank);
  ops::copy(context, heads.col_range(nope, nope + rope), keys.col_range(0, rope));
  ops::batched_matmul(context, heads.col_range(0, nope), k_b_, keys.col_range(rope, rope + rank));
}

void LatentAttention::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const int64_t n = batch.tokens(), h = spec_.heads;
  const int64_t rope = spec_.rope_dim, rank = spec_.kv_rank, key = rope + rank;

  // Keys: the shared rotary part first, then the latent, which is also the value.
  const tensor::Matrix keys = context.arena.matrix(n, key);
  {
    const tensor::ArenaScope inner(context.arena);
    const tensor::Matrix low = context.arena.matrix(n, rank + rope);
    project(batch, x, kv_a_, low);
    ops::rms_norm(context, low.col_range(0, rank), kv_a_norm_.data(), spec_.norm_eps, keys.col_range(rope, key));
    ops::copy(context, low.col_range(rank, rank + rope), keys.col_range(0, rope));
    if (spec_.latent_scale != 1) ops::scale(context, keys.col_range(rope, key), spec_.latent_scale);
  }
  if (spec_.positions) rope_.forward(batch, 1, keys);

  // Queries in the same order, the part without positions taken through W_k.
  const tensor::Matrix latent = spec_.q_rank > 0 ? context.arena.matrix(n, spec_.q_rank) : tensor::Matrix();
  const tensor::Matrix absorbed = context.arena.matrix(n, h * key);
  {
    const tensor::ArenaScope inner(context.arena);
    const tensor::Matrix q = context.arena.matrix(n, h * (spec_.nope_dim + rope));
    queries(batch, x, latent, q);
    absorb(context, q, absorbed);
  }
  if (spec_.positions) rope_.forward(batch, h, absorbed);

  ops::AttentionShape shape;
  shape.heads = h, shape.scale = spec_.scale;
  tensor::DType dtype = tensor::DType::f32;
  const std::vector<ops::Segment> rows = segments(batch, layer, dtype);
  shape.layout = cache_layout(spec_, dtype);
  const tensor::Matrix mixed = context.arena.matrix(n, h * rank);
  ops::append_cache(context, shape.layout, keys, keys.col_range(rope, key), rows);
  if (StepShare* const share = batch.pass.share) {
    share->keys_written(layer, batch.sequences);
    share->wait_for_earlier_keys(layer);
  }
  if (indexer_)
    ops::attention_at(context, shape, absorbed, rows, indexer_->choose(batch, layer, x, latent, rows, dtype), mixed);
  else
    ops::attention(context, shape, absorbed, rows, mixed);

  const tensor::Matrix out = context.arena.matrix(n, h * spec_.value_dim);
  ops::batched_matmul(context, {mixed.data, n * h, rank}, v_b_, {out.data, n * h, spec_.value_dim});
  if (spec_.gate.shape == OutputGate::Shape::per_head) {
    const tensor::Matrix gate = context.arena.matrix(n, h);
    project(batch, x, gate_, gate);
    ops::activate(context, spec_.gate.activation, gate);
    ops::scale_heads(context, gate, out);
  }
  project(batch, out, o_, y);
}

}  // namespace coterie::layers
