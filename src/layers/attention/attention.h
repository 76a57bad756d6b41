#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "layers/attention/head_experts.h"
#include "layers/attention/rope.h"
#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"
#include "ops/attention.h"

namespace coterie::layers {

/// How this attention's keys and values lie in a cache of the given element type (f32, f16, bf16).
ops::CacheLayout cache_layout(const AttentionSpec& spec, tensor::DType dtype);

/// Causal self-attention with grouped queries, rotary positions and, where the family has them, q/k norms, clipping,
/// a sliding window or chunks, a softcap of the scores, sinks, a temperature of the queries and experts of its heads.
class Attention {
 public:
  /// `input_width`: of x, when it is not the model's.
  Attention(const AttentionSpec& spec, int64_t width, int64_t input_width = 0);

  /// What is added to q, k and v (Zamba2's adapters): called with their matrices after the projections.
  using AddToQkv = base::FunctionRef<void(tensor::Matrix q, tensor::Matrix k, tensor::Matrix v)>;

  /// x [N, D or the input width], y [N, D]. Appends the batch's keys and values to the sequences' caches of this layer.
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const;
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y, AddToQkv add) const;
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  /// Norms, clipping and positions of queries and keys; what values are, where they are keys, their norm and scale.
  void prepare(const Batch& batch, tensor::Matrix q, tensor::Matrix k, tensor::Matrix v) const;
  /// q, k and v of x; returns what gates the output, if something does.
  tensor::Matrix project_in(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix q, tensor::Matrix k,
                            tensor::Matrix v) const;

  bool plain_qk_norm() const { return spec_.qk_norm == AttentionSpec::QkNorm::per_head_plain; }

  AttentionSpec spec_;
  int64_t width_, input_width_;
  std::optional<Rope> rope_;
  std::optional<HeadExperts> experts_;  // in the place of q_ and o_
  Linear q_, k_, v_, o_, gate_;
  Vector q_norm_, k_norm_;
  Vector sinks_;             // [H]
  std::vector<float> ones_;  // [head_dim], of norms without weights
};

}  // namespace coterie::layers
