#include "layers/ssm/delta_rule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "layers/lora.h"
#include "layers/ssm/recurrent.h"
#include "ops/delta.h"
#include "ops/elementwise.h"

namespace coterie::layers {

namespace {

constexpr float kLengthEps = 1e-6f;  // x / sqrt(Σ x² + this), in every family
constexpr const char* kParts[] = {"q", "k", "v"};

}  // namespace

void DeltaRule::visit_low_rank(TensorVisitor& visitor, const std::string& path, int64_t rows, int64_t rank,
                               const ListedTensor& order, LowRank& slot) {
  if (rank > 0) {
    visitor.adaptable(path + "_a", Place::mixer, rank, width_, false, slot.a);
    visitor.adaptable(path + "_b", Place::mixer, rows, rank, false, slot.b);
    return;
  }
  ListedTensor tensor = order;
  tensor.path = path, tensor.place = Place::mixer;
  visitor.matrix(tensor, rows, width_, slot.whole.weight);
  visitor.lora(tensor, rows, width_, slot.whole.lora);
}

void DeltaRule::visit(TensorVisitor& visitor, const std::string& path) {
  const int64_t heads = spec_.value_heads, values = spec_.value_width(), channels = spec_.conv_channels();
  const int64_t each = spec_.value_heads / spec_.key_heads;  // value heads of a key head
  // Some files keep what belongs to a key head together: its query, key, values and gates; and its betas and decays.
  const auto ordered = [&](int64_t others) {
    return ListedTensor{.path = {}, .place = Place::mixer, .parts = spec_.key_heads, .merged_with = others};
  };
  if (spec_.fused) {
    ListedTensor qkv = ordered(each * spec_.value_dim);
    qkv.path = path + ".qkv";
    visitor.matrix(qkv, channels, width_, qkv_.weight);
    visitor.lora(qkv, channels, width_, qkv_.lora);
    visitor.table({path + ".conv", Place::mixer}, channels, spec_.conv_width, taps_);
  } else {
    const int64_t rows[] = {spec_.key_width(), spec_.key_width(), values};
    for (size_t i = 0; i < 3; ++i)
      visitor.adaptable(path + "." + kParts[i], Place::mixer, rows[i], width_, false, parts_[i]);
    for (size_t i = 0; i < 3; ++i)
      visitor.table({path + "." + kParts[i] + "_conv", Place::mixer}, rows[i], spec_.conv_width, part_taps_[i]);
  }
  visit_low_rank(visitor, path + ".gate", values, spec_.gate_rank, ordered(2 * spec_.key_dim + each * spec_.value_dim),
                 gate_);
  ListedTensor beta = ordered(each);
  beta.path = path + ".beta";
  visitor.matrix(beta, heads, width_, beta_.weight);
  visitor.lora(beta, heads, width_, beta_.lora);
  visit_low_rank(visitor, path + ".decay", spec_.decay_width(), spec_.decay_rank, ordered(each), decay_);
  visitor.vector({path + ".decay.bias", Place::mixer}, spec_.decay_width(), dt_bias_);
  visitor.vector({path + ".a_log", Place::mixer}, heads, a_log_);
  visitor.vector({path + ".norm", Place::norms}, spec_.value_dim, norm_);
  visitor.adaptable(path + ".out", Place::mixer, width_, values, false, out_);
}

void DeltaRule::arrange() {
  if (spec_.fused) {
    taps_by_channel_[0] = transposed(taps_.data(), spec_.conv_channels(), spec_.conv_width);
  } else {
    const int64_t rows[] = {spec_.key_width(), spec_.key_width(), spec_.value_width()};
    for (size_t i = 0; i < 3; ++i) taps_by_channel_[i] = transposed(part_taps_[i].data(), rows[i], spec_.conv_width);
  }
  a_ = tensor::Buffer<float>(spec_.value_heads);
  make_decay(a_log_, a_.data());
  // A vector of length one is one of mean square 1 / K, times 1 / sqrt(K); queries are divided by sqrt(K) besides.
  const auto key_dim = static_cast<float>(spec_.key_dim);
  key_scale_ = tensor::Buffer<float>(spec_.key_dim), query_scale_ = tensor::Buffer<float>(spec_.key_dim);
  std::fill_n(key_scale_.data(), spec_.key_dim, 1 / std::sqrt(key_dim));
  std::fill_n(query_scale_.data(), spec_.key_dim, 1 / key_dim);
}

void DeltaRule::project_low_rank(const Batch& batch, tensor::ConstMatrix x, const LowRank& by, tensor::Matrix y) const {
  const tensor::ArenaScope scratch(batch.context.arena);
  const tensor::Matrix low = batch.context.arena.matrix(x.rows, by.a.weight.rows);
  project(batch, x, by.a, low);
  project(batch, low, by.b, y);
}

void DeltaRule::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  const int64_t n = x.rows, keys = spec_.key_width(), values = spec_.value_width(), channels = spec_.conv_channels();
  const int64_t floats = state_floats(spec_), history = spec_.conv_width - 1;
  const int64_t begin[] = {0, keys, 2 * keys, channels};
  if (context.tape) {
    const auto record = [&](const Vector& taps, const tensor::Buffer<float>& made, int64_t rows) {
      record_derived(*context.tape, taps, rows, spec_.conv_width, made.data(), false);
    };
    if (spec_.fused) record(taps_, taps_by_channel_[0], channels);
    for (size_t i = 0; i < 3 && !spec_.fused; ++i) record(part_taps_[i], taps_by_channel_[i], begin[i + 1] - begin[i]);
    record_derived(*context.tape, a_log_, spec_.value_heads, 1, a_.data(), true);
  }
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix projected = context.arena.matrix(n, channels), qkv = context.arena.matrix(n, channels);
  const tensor::Matrix beta = context.arena.matrix(n, spec_.value_heads);
  const tensor::Matrix step = context.arena.matrix(n, spec_.decay_width());
  const tensor::Matrix gate = context.arena.matrix(n, values);

  // With a state for each convolution: [history, its channels], one after the other.
  const auto convolve = [&](const tensor::Buffer<float>& taps, int64_t from, int64_t to) {
    const ops::Convolution convolution{spec_.conv_width, taps.data(), nullptr, spec_.activation};
    run_recurrence(batch, layer, {history * from, history * (to - from), floats}, [&](auto sequences) {
      ops::causal_conv1d(context, convolution, projected.col_range(from, to), sequences, qkv.col_range(from, to));
    });
  };
  // All that reads x in one call, whose weights are read in one run.
  std::vector<Projection> projections;
  if (spec_.fused) {
    projections.push_back({qkv_, projected});
  } else {
    for (size_t i = 0; i < 3; ++i) projections.push_back({parts_[i], projected.col_range(begin[i], begin[i + 1])});
  }
  projections.push_back({beta_, beta});
  if (gate_.whole.weight.data) projections.push_back({gate_.whole, gate});
  if (decay_.whole.weight.data) projections.push_back({decay_.whole, step});
  project_each(batch, x, projections);
  if (spec_.fused) {
    convolve(taps_by_channel_[0], 0, channels);
  } else {
    for (size_t i = 0; i < 3; ++i) convolve(taps_by_channel_[i], begin[i], begin[i + 1]);
  }

  const tensor::Matrix q = qkv.col_range(0, keys), k = qkv.col_range(keys, 2 * keys);
  const float eps = kLengthEps / static_cast<float>(spec_.key_dim);
  ops::rms_norm_heads(context, q, spec_.key_heads, query_scale_.data(), eps);
  ops::rms_norm_heads(context, k, spec_.key_heads, key_scale_.data(), eps);
  ops::activate(context, ops::Activation::sigmoid, beta);
  const tensor::Matrix decay = context.arena.matrix(n, spec_.decay_width());
  if (!decay_.whole.weight.data) project_low_rank(batch, x, decay_, step);
  ops::decay(context, {spec_.value_heads, a_.data(), dt_bias_.data(), spec_.decay_floor}, step, decay);

  const tensor::Matrix read = projected.col_range(0, values);  // the convolution has read it
  const ops::DeltaRule rule{spec_.key_heads, spec_.value_heads, spec_.key_dim, spec_.value_dim, spec_.by_turn};
  const ops::DeltaInputs inputs{q, k, qkv.col_range(2 * keys, channels), decay, beta};
  run_recurrence(batch, layer, {history * channels, floats - history * channels, floats},
                 [&](auto sequences) { ops::delta_rule(context, rule, inputs, sequences, read); });
  ops::rms_norm_heads(context, read, spec_.value_heads, norm_.data(), spec_.norm_eps);
  if (!gate_.whole.weight.data) project_low_rank(batch, x, gate_, gate);
  ops::gate(context, spec_.gate, gate, read);
  project(batch, gate, out_, y);
}

}  // namespace coterie::layers
