#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "layers/block.h"
#include "layers/embedding.h"
#include "layers/norm.h"
#include "layers/prediction.h"
#include "layers/tensor_list.h"
#include "layers/weight_names.h"
#include "models/spec.h"
#include "tensor/buffer.h"

namespace coterie::models {

/// The layers of a model as a tree: embedding, blocks, final norm, head. Building it costs next to nothing, so it is
/// also what counts parameters of models whose weights nobody has; the paths of visit() are the canonical names.
class Network {
 public:
  explicit Network(const ModelSpec& spec);

  /// embedding, prediction.… of a head, blocks.N.…, final_norm, head unless the embeddings are tied, and its bias.
  void visit(layers::TensorVisitor& visitor);
  /// The same for those who only look, and for one block alone.
  void read(layers::TensorReader& reader) const;
  void read_block(layers::TensorReader& reader, size_t block) const;
  /// To be called when the weights have been bound.
  void arrange();

  layers::Embedding embedding;
  std::optional<layers::Prediction> prediction;  // of a head for multi-token prediction
  std::vector<std::shared_ptr<layers::SharedBlock>> shared;
  std::vector<layers::Block> blocks;
  layers::Norm final_norm;
  const tensor::Weight& head() const { return tied_ ? embedding.table() : head_; }
  const float* head_bias() const { return head_bias_.data(); }  // [V], or null
  /// What the numbers of weights stand for.
  const layers::WeightNames& names() const { return names_; }

 private:
  int64_t vocabulary_, width_;
  bool tied_, has_head_bias_;
  tensor::Weight head_;       // [V, D]
  layers::Vector head_bias_;  // [V]
  layers::WeightNames names_;
};

/// What binding made beside the views into the files.
struct Binding {
  std::vector<tensor::Buffer<std::byte>> decoded;  // weights that had to be decoded; the network points into them
  std::vector<std::string> warnings;
};

}  // namespace coterie::models
