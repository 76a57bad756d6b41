#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "layers/attention/rope.h"
#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"
#include "ops/sparse_attention.h"

namespace coterie::layers {

/// How an indexer's keys lie in a cache of the given element type, behind the layer's latents; no heads where the
/// layer has no indexer of its own.
ops::CacheLayout index_layout(const LatentAttentionSpec& spec, tensor::DType dtype);

/// What the indexers of a pass chose, by layer and sequence: a layer without one reads the last before it.
struct Selections {
  using OfLayer = std::map<const SequenceState*, ops::ChosenPositions>;
  std::map<int64_t, OfLayer> by_layer;
};

/// What chooses the positions that tokens see (IndexerSpec). It is not trained by the loss: nothing passes through a
/// choice, as in transformers.
class Indexer {
 public:
  Indexer(const LatentAttentionSpec& spec, int64_t width);

  /// For each sequence of the batch what its rows see, by x [N, D] and the normed latent of the queries [N, q_rank].
  /// Appends the indexer's keys to the caches. `rows`: the sequences with their blocks, of a cache of `dtype`.
  std::vector<ops::ChosenPositions> choose(const Batch& batch, int64_t layer, tensor::ConstMatrix x,
                                           tensor::ConstMatrix latent, std::span<const ops::Segment> rows,
                                           tensor::DType dtype) const;
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  LatentAttentionSpec spec_;
  int64_t width_;
  Rope rope_;
  Linear q_, k_, weights_;       // [H * d, q_rank], [d, D], [H, D]
  Vector k_norm_, k_norm_bias_;  // [d]
};

}  // namespace coterie::layers
