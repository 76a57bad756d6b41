#include "layers/attention/attention.h"

#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "layers/attention/segments.h"
#include "layers/lora.h"
#include "layers/step_share.h"
#include "ops/elementwise.h"
#include "ops/moe/slots.h"

namespace coterie::layers {

ops::CacheLayout cache_layout(const AttentionSpec& spec, tensor::DType dtype) {
  return {spec.kv_heads, spec.head_dim, spec.value_dim, dtype};
}

Attention::Attention(const AttentionSpec& spec, int64_t width, int64_t input_width)
    : spec_(spec), width_(width), input_width_(input_width > 0 ? input_width : width) {
  if (spec.rope) rope_.emplace(*spec.rope);
  if (spec.experts) experts_.emplace(spec, input_width_);
  if (spec.qk_norm == AttentionSpec::QkNorm::per_head_plain || spec.value_norm)
    ones_.assign(static_cast<size_t>(spec.head_dim), 1.0f);
}

void Attention::visit(TensorVisitor& visitor, const std::string& path) {
  const int64_t q = spec_.heads * spec_.head_dim, k = spec_.kv_heads * spec_.head_dim;
  const int64_t v = spec_.kv_heads * spec_.value_dim, a = spec_.heads * spec_.value_dim;
  const auto gate = spec_.gate.shape;
  const int64_t packed = gate == OutputGate::Shape::beside_query ? 2 * q : q;
  if (experts_)
    experts_->visit(visitor, path);
  else
    visitor.adaptable(path + ".q", Place::mixer, packed, input_width_, spec_.q_bias, q_);
  visitor.adaptable(path + ".k", Place::mixer, k, input_width_, spec_.k_bias, k_);
  if (!spec_.values_are_keys) visitor.adaptable(path + ".v", Place::mixer, v, input_width_, spec_.v_bias, v_);
  if (!experts_) visitor.adaptable(path + ".o", Place::mixer, width_, a, spec_.o_bias, o_);
  if (gate == OutputGate::Shape::per_head || gate == OutputGate::Shape::per_channel)
    visitor.adaptable(path + ".gate", Place::mixer, gate == OutputGate::Shape::per_head ? spec_.heads : a, input_width_,
                      false, gate_);
  if (spec_.sinks) visitor.vector({path + ".sinks", Place::mixer}, spec_.heads, sinks_);
  if (spec_.qk_norm == AttentionSpec::QkNorm::none || plain_qk_norm()) return;
  const bool full = spec_.qk_norm == AttentionSpec::QkNorm::full_width;
  visitor.vector({path + ".q_norm", Place::norms}, full ? q : spec_.head_dim, q_norm_);
  visitor.vector({path + ".k_norm", Place::norms}, full ? k : spec_.head_dim, k_norm_);
}

namespace {

/// What queries are multiplied by at each position.
std::vector<float> temperatures(const AttentionSpec::Temperature& rule, std::span<const int32_t> positions) {
  std::vector<float> factors;
  factors.reserve(positions.size());
  for (const int32_t position : positions)
    factors.push_back(std::log1p(std::floor((static_cast<float>(position) + 1) / rule.period)) * rule.scale + 1);
  return factors;
}

ops::AttentionShape shape_of(const AttentionSpec& spec, const Vector& sinks, tensor::DType cache) {
  ops::AttentionShape shape;
  shape.heads = spec.heads, shape.scale = spec.scale, shape.window = spec.window;
  shape.softcap = spec.softcap, shape.sinks = sinks.data(), shape.chunk = spec.chunk;
  shape.layout = cache_layout(spec, cache);
  return shape;
}

/// Rows of n tokens, not initialised: queries, keys, values and what the heads give.
struct HeadRows {
  tensor::Matrix q, k, v, a;
};
HeadRows heads_of(tensor::Arena& arena, const AttentionSpec& spec, int64_t n) {
  return {arena.matrix(n, spec.heads * spec.head_dim), arena.matrix(n, spec.kv_heads * spec.head_dim),
          arena.matrix(n, spec.kv_heads * spec.value_dim), arena.matrix(n, spec.heads * spec.value_dim)};
}

}  // namespace

// Either the queries or the keys and values may be missing: they are prepared apart then.
void Attention::prepare(const Batch& batch, tensor::Matrix q, tensor::Matrix k, tensor::Matrix v) const {
  ops::Context& context = batch.context;
  const auto norm_of = [&](tensor::Matrix x, int64_t heads, const Vector& weight) {
    if (!x.data) return;
    const float* const w = plain_qk_norm() ? ones_.data() : weight.data();
    switch (spec_.qk_norm) {
      case AttentionSpec::QkNorm::none: break;
      case AttentionSpec::QkNorm::per_head:
      case AttentionSpec::QkNorm::per_head_plain:
        ops::rms_norm_heads(context, x, heads, w, spec_.qk_norm_eps, spec_.qk_norm_offset);
        break;
      case AttentionSpec::QkNorm::full_width:
        ops::rms_norm(context, x, w, spec_.qk_norm_eps, x, spec_.qk_norm_offset);
        break;
    }
  };
  const auto norm = [&] { norm_of(q, spec_.heads, q_norm_), norm_of(k, spec_.kv_heads, k_norm_); };
  if (v.data) {
    if (spec_.values_are_keys) ops::copy(context, k, v);
    if (spec_.value_norm) ops::rms_norm_heads(context, v, spec_.kv_heads, ones_.data(), spec_.qk_norm_eps);
    if (spec_.value_scale != 1) ops::scale(context, v, spec_.value_scale);
  }
  if (!spec_.qk_norm_after_rope) norm();
  if (spec_.clip_qkv)
    for (const tensor::Matrix& part : {q, k, v})
      if (part.data) ops::clamp(context, part, *spec_.clip_qkv);
  if (rope_) {
    if (q.data) rope_->forward(batch, spec_.heads, q);
    if (k.data) rope_->forward(batch, spec_.kv_heads, k);
  }
  if (spec_.qk_norm_after_rope) norm();
  if (spec_.temperature && q.data) ops::scale_rows(context, q, temperatures(*spec_.temperature, batch.positions));
}

void Attention::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  StepShare* const share = batch.pass.share;
  if (!share || experts_ || spec_.gate.shape != OutputGate::Shape::none)
    return forward(batch, layer, x, y, [](tensor::Matrix, tensor::Matrix, tensor::Matrix) {});
  // Who has later rows waits for these keys: they are made first, and travel while the queries are.
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const auto [q, k, v, a] = heads_of(context.arena, spec_, batch.tokens());
  const std::array<Projection, 2> projections = {{{k_, k}, {v_, v}}};
  project_each(batch, x, std::span(projections).first(spec_.values_are_keys ? 1 : 2));
  prepare(batch, {}, k, v);
  tensor::DType dtype = tensor::DType::f32;
  const std::vector<ops::Segment> rows = segments(batch, layer, dtype);
  const ops::AttentionShape shape = shape_of(spec_, sinks_, dtype);
  ops::append_cache(context, shape.layout, k, v, rows);
  share->keys_written(layer, batch.sequences);
  project(batch, x, q_, q);
  prepare(batch, q, {}, {});
  share->wait_for_earlier_keys(layer);
  ops::attention(context, shape, q, rows, a);
  project(batch, a, o_, y);
}

tensor::Matrix Attention::project_in(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix q, tensor::Matrix k,
                                     tensor::Matrix v) const {
  ops::Context& context = batch.context;
  const int64_t n = x.rows, d = spec_.head_dim;
  tensor::Matrix gate;
  switch (spec_.gate.shape) {
    case OutputGate::Shape::none: {
      const std::array<Projection, 3> projections = {{{q_, q}, {k_, k}, {v_, v}}};
      project_each(batch, x, std::span(projections).first(spec_.values_are_keys ? 2 : 3));
      break;
    }
    case OutputGate::Shape::per_head:
    case OutputGate::Shape::per_channel: {
      gate = context.arena.matrix(
          n, spec_.gate.shape == OutputGate::Shape::per_head ? spec_.heads : spec_.heads * spec_.value_dim);
      const std::array<Projection, 4> projections = {{{q_, q}, {k_, k}, {v_, v}, {gate_, gate}}};
      project_each(batch, x, projections);
      break;
    }
    case OutputGate::Shape::beside_query: {
      gate = context.arena.matrix(n, spec_.heads * d);
      const tensor::Matrix both = context.arena.matrix(n, 2 * spec_.heads * d);
      const std::array<Projection, 3> projections = {{{q_, both}, {k_, k}, {v_, v}}};
      project_each(batch, x, projections);
      for (int64_t h = 0; h < spec_.heads; ++h) {
        ops::copy(context, both.col_range(2 * h * d, (2 * h + 1) * d), q.col_range(h * d, (h + 1) * d));
        ops::copy(context, both.col_range((2 * h + 1) * d, (2 * h + 2) * d), gate.col_range(h * d, (h + 1) * d));
      }
      break;
    }
  }
  return gate;
}

void Attention::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y,
                        AddToQkv add) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const auto [q, k, v, a] = heads_of(context.arena, spec_, batch.tokens());

  std::optional<ops::RoutingPlan> plan;
  tensor::Matrix gate;
  if (experts_) {
    plan = experts_->queries(batch, layer, x, q);
    const std::array<Projection, 2> projections = {{{k_, k}, {v_, v}}};
    project_each(batch, x, projections);
  } else {
    gate = project_in(batch, x, q, k, v);
  }
  add(q, k, v);
  prepare(batch, q, k, v);

  tensor::DType dtype = tensor::DType::f32;
  const std::vector<ops::Segment> rows = segments(batch, layer, dtype);
  const ops::AttentionShape shape = shape_of(spec_, sinks_, dtype);
  ops::append_cache(context, shape.layout, k, v, rows);
  if (StepShare* const share = batch.pass.share) {
    share->keys_written(layer, batch.sequences);
    share->wait_for_earlier_keys(layer);
  }
  ops::attention(context, shape, q, rows, a);
  if (experts_) return experts_->output(batch, *plan, a, y);
  if (spec_.gate.shape == OutputGate::Shape::per_head) {
    ops::activate(context, spec_.gate.activation, gate);
    ops::scale_heads(context, gate, a);
  } else if (spec_.gate.shape != OutputGate::Shape::none) {
    ops::gate(context, spec_.gate.activation, gate, a);
    return project(batch, gate, o_, y);
  }
  project(batch, a, o_, y);
}

}  // namespace coterie::layers
