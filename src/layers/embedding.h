#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "layers/tensor_list.h"
#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::layers {

/// Token ids to vectors: row ids[n] of the table [V, D].
class Embedding {
 public:
  Embedding(int64_t vocabulary, int64_t width) : vocabulary_(vocabulary), width_(width) {}

  /// ids [N], each in [0, V); y [N, D], times the multiplier.
  void forward(ops::Context& context, std::span<const int32_t> ids, tensor::Matrix y, float multiplier = 1) const;
  void visit(TensorVisitor& visitor, const std::string& path);

  const tensor::Weight& table() const { return table_; }

 private:
  int64_t vocabulary_, width_;
  tensor::Weight table_;
};

}  // namespace coterie::layers
