#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "layers/tensor_list.h"
#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::layers {

/// Token ids to vectors: row ids[n] of the table [V, D], and where the model has learned positions (GPT-2) a row of
/// their table added to it.
class Embedding {
 public:
  /// `positions`: rows of the table of positions; 0 = there is none.
  Embedding(int64_t vocabulary, int64_t width, int64_t positions = 0)
      : vocabulary_(vocabulary), width_(width), positions_(positions) {}

  /// ids [N], each in [0, V), and positions [N], within their table where there is one. y [N, D]: the token's row times
  /// the multiplier, plus the position's.
  void forward(ops::Context& context, std::span<const int32_t> ids, std::span<const int32_t> positions,
               tensor::Matrix y, float multiplier = 1) const;
  void visit(TensorVisitor& visitor, const std::string& path);

  const tensor::Weight& table() const { return table_; }

 private:
  int64_t vocabulary_, width_, positions_;
  tensor::Weight table_, position_table_;
};

}  // namespace coterie::layers
