#include "ops/delta.h"

#include <algorithm>
#include <limits>

#include "ops/gradients.h"
#include "ops/sequences.h"

namespace coterie::ops {

using base::require;

void decay(Context& context, const Decay& decay, tensor::ConstMatrix x, tensor::Matrix y) {
  require(x.rows == y.rows && x.cols == y.cols && x.data != y.data, "decay", "x is [{}, {}], y is [{}, {}]", x.rows,
          x.cols, y.rows, y.cols);
  require(decay.heads >= 1 && x.cols % decay.heads == 0 && decay.a && decay.bias, "decay", "{} columns of {} heads",
          x.cols, decay.heads);
  require(decay.floor <= 0, "decay", "a floor of {}", decay.floor);
  if (context.tape) record_decay(*context.tape, decay, x, y);
  const int64_t width = x.cols / decay.heads;
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* const out = y.row(r);
      if (decay.floor == 0) {
        context.kernels.ssm.softplus(x.row(r), decay.bias, 0, std::numeric_limits<float>::infinity(), out, x.cols);
        for (int64_t i = 0; i < x.cols; ++i) out[i] *= decay.a[i / width];
      } else {
        for (int64_t i = 0; i < x.cols; ++i) out[i] = -decay.a[i / width] * (x.row(r)[i] + decay.bias[i]);
        context.kernels.vector.sigmoid(out, out, x.cols);
        for (int64_t i = 0; i < x.cols; ++i) out[i] *= decay.floor;
      }
      context.kernels.vector.exp(out, out, x.cols);
    }
  });
}

void delta_rule(Context& context, const DeltaRule& rule, const DeltaInputs& in, std::span<const Recurrence> sequences,
                tensor::Matrix y) {
  const int64_t heads = rule.value_heads, keys = rule.key_dim, channels = rule.value_dim;
  require(rule.key_heads >= 1 && heads >= 1 && heads % rule.key_heads == 0 && keys >= 1 && channels >= 1, "delta_rule",
          "{} value heads of {} channels, {} key heads of {}", heads, channels, rule.key_heads, keys);
  for (const tensor::ConstMatrix& m : {in.q, in.k})
    require(m.rows == y.rows && m.cols == rule.key_heads * keys, "delta_rule", "queries or keys are [{}, {}]", m.rows,
            m.cols);
  require(y.cols == heads * channels && in.v.rows == y.rows && in.v.cols == y.cols && in.v.data != y.data, "delta_rule",
          "values are [{}, {}], y is [{}, {}]", in.v.rows, in.v.cols, y.rows, y.cols);
  require(in.decay.rows == y.rows && (in.decay.cols == heads || in.decay.cols == heads * keys), "delta_rule",
          "the decay is [{}, {}]", in.decay.rows, in.decay.cols);
  require(in.beta.rows == y.rows && in.beta.cols == heads, "delta_rule", "beta is [{}, {}]", in.beta.rows,
          in.beta.cols);
  check_sequences("delta_rule", sequences, y.rows, true);
  if (context.tape) record_delta_rule(*context.tape, rule, in, sequences, y);

  constexpr int64_t kTokens = 64;  // whose rows stay in the second-level cache beside the state
  const int64_t each = in.decay.cols / heads;
  for_channel_pieces(context, sequences, y.cols, channels, channels, keys,
                     [&](const Recurrence& s, int64_t begin, int64_t) {
                       const int64_t head = begin / channels, key = rule.key_head(head) * keys;
                       kernels::DeltaRuleTile tile;
                       tile.q_stride = in.q.stride, tile.k_stride = in.k.stride, tile.v_stride = in.v.stride;
                       tile.decay_stride = in.decay.stride, tile.decay_by_key = in.decay.cols > heads;
                       tile.beta_stride = in.beta.stride, tile.y_stride = y.stride;
                       tile.s = s.state + head * keys * channels, tile.s_stride = channels;
                       tile.keys = keys, tile.channels = channels;
                       for (int64_t t = s.first_row; t < s.first_row + s.rows; t += kTokens) {
                         tile.tokens = std::min(kTokens, s.first_row + s.rows - t);
                         tile.q = in.q.row(t) + key, tile.k = in.k.row(t) + key, tile.v = in.v.row(t) + begin;
                         tile.decay = in.decay.row(t) + head * each, tile.beta = in.beta.row(t) + head;
                         tile.y = y.row(t) + begin;
                         context.kernels.ssm.delta_rule(tile);
                       }
                     });
}

}  // namespace coterie::ops
