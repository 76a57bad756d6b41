#pragma once

#include <cstdint>
#include <string>

#include "layers/specs.h"
#include "layers/tensor_list.h"
#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::layers {

/// RMSNorm or LayerNorm over the model width.
class Norm {
 public:
  Norm(const NormSpec& spec, int64_t width) : spec_(spec), width_(width) {}

  /// x, y [N, D]; y may be x.
  void forward(ops::Context& context, tensor::ConstMatrix x, tensor::Matrix y) const;
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  NormSpec spec_;
  int64_t width_;
  Vector weight_, bias_;
};

}  // namespace coterie::layers
