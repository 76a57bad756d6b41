#include "layers/norm.h"

#include "ops/elementwise.h"

namespace coterie::layers {

void Norm::visit(TensorVisitor& visitor, const std::string& path) {
  visitor.vector({path, Place::norms}, width_, weight_);
  if (spec_.bias) visitor.vector({path + ".bias", Place::norms}, width_, bias_);
}

void Norm::forward(ops::Context& context, tensor::ConstMatrix x, tensor::Matrix y) const {
  switch (spec_.kind) {
    case NormSpec::Kind::rms: return ops::rms_norm(context, x, weight_.data(), spec_.eps, y, spec_.weight_offset);
    case NormSpec::Kind::layer: return ops::layer_norm(context, x, weight_.data(), bias_.data(), spec_.eps, y);
  }
}

}  // namespace coterie::layers
