#include "layers/embedding.h"

#include "ops/elementwise.h"

namespace coterie::layers {

void Embedding::visit(TensorVisitor& visitor, const std::string& path) {
  visitor.matrix({path, Place::input_embeddings}, vocabulary_, width_, table_);
}

void Embedding::forward(ops::Context& context, std::span<const int32_t> ids, tensor::Matrix y, float multiplier) const {
  ops::embed(context, ids, table_, y, multiplier);
}

}  // namespace coterie::layers
