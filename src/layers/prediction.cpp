#include "layers/prediction.h"

#include "ops/matmul.h"

namespace coterie::layers {

void Prediction::forward(ops::Context& context, tensor::ConstMatrix before, tensor::Matrix x) const {
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix both = context.arena.matrix(x.rows, 2 * width_);
  embedding_norm_.forward(context, x, both.col_range(0, width_));
  hidden_norm_.forward(context, before, both.col_range(width_, 2 * width_));
  ops::matmul(context, both, projection_, nullptr, x);
}

void Prediction::visit(TensorVisitor& visitor, const std::string& path) {
  embedding_norm_.visit(visitor, path + ".embedding_norm");
  hidden_norm_.visit(visitor, path + ".hidden_norm");
  visitor.matrix({path + ".projection", Place::mixer}, width_, 2 * width_, projection_);
}

}  // namespace coterie::layers
