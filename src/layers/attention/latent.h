#pragma once

#include <optional>
#include <string>
#include <vector>

#include "layers/attention/indexer.h"
#include "layers/attention/rope.h"
#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"
#include "ops/attention.h"
#include "ops/matmul.h"

namespace coterie::layers {

/// How a token's latent and rotary key lie in a cache of the given element type: one key-value head of
/// rope_dim + kv_rank dimensions, whose values are the latent.
ops::CacheLayout cache_layout(const LatentAttentionSpec& spec, tensor::DType dtype);

/// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434 §2.1), in its absorbed form: with the latent c of a token
/// and the rotary key k_r that all heads share,
///
///   q·k   = (W_k q_nope)·c + q_rope·k_r          W_k [kv_rank, nope_dim] of each head
///   out_h = W_v (Σ softmax(scale q·k) c)          W_v [value_dim, kv_rank] of each head
///
/// so that the cache holds kv_rank + rope_dim numbers of a token instead of keys and values of every head, and neither
/// is ever made. Prefill and decode run the same form: their bits agree. docs/design/router_and_mla.md has the price.
class LatentAttention {
 public:
  LatentAttention(const LatentAttentionSpec& spec, int64_t width) : spec_(spec), width_(width), rope_(spec.rope) {
    if (spec.indexer) indexer_.emplace(spec, width);
  }

  /// x, y [N, D]. Appends the batch's latents to the sequences' caches of this layer.
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const;
  void visit(TensorVisitor& visitor, const std::string& path);
  /// To be called when the weights have been bound.
  void arrange();

 private:
  // q [N, H * (nope_dim + rope_dim)]; latent [N, q_rank], normed, is left too where there is one
  void queries(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix latent, tensor::Matrix q) const;
  // absorbed [N, H * (rope_dim + kv_rank)]: of each head the rotary part, then W_k q_nope
  void absorb(ops::Context& context, tensor::ConstMatrix q, tensor::Matrix absorbed) const;

  LatentAttentionSpec spec_;
  int64_t width_;
  Rope rope_;
  std::optional<Indexer> indexer_;
  Linear q_, q_a_, q_b_, kv_a_, o_, gate_;
  Vector q_a_norm_, kv_a_norm_;
  std::vector<tensor::Weight> k_b_, v_b_;  // [H] of [kv_rank, nope_dim] and [value_dim, kv_rank]
};

}  // namespace coterie::layers
