#include "layers/embedding.h"

#include "ops/elementwise.h"

namespace coterie::layers {

void Embedding::visit(TensorVisitor& visitor, const std::string& path) {
  visitor.matrix({path, Place::input_embeddings}, vocabulary_, width_, table_);
  if (positions_ > 0)
    visitor.matrix({path + ".positions", Place::input_embeddings}, positions_, width_, position_table_);
}

void Embedding::forward(ops::Context& context, std::span<const int32_t> ids, std::span<const int32_t> positions,
                        tensor::Matrix y, float multiplier) const {
  ops::embed(context, ids, table_, y, multiplier);
  if (positions_ == 0) return;
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix added = context.arena.matrix(y.rows, y.cols);
  ops::embed(context, positions, position_table_, added);
  ops::add(context, added, y);
}

}  // namespace coterie::layers
