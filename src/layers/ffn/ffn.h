#pragma once

#include <cstdint>
#include <string>

#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"
#include "tensor/view.h"

namespace coterie::layers {

/// The dense feed-forward network: down(act(gate x) * up x), or down(act(up x)). It is the MoE with one expert and
/// runs through the same grouped matmuls, so the two agree to the bit.
class DenseFfn {
 public:
  /// `place`: dense_ffn, or shared_experts inside a MoE layer.
  DenseFfn(const DenseFfnSpec& spec, int64_t width, Place place = Place::dense_ffn)
      : spec_(spec), width_(width), place_(place) {}

  /// x, y [N, D].
  void forward(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix y) const;
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  /// The same of single matmuls, for adapters that have more than LowRank says. Without those it has the same bits.
  void forward_apart(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix y) const;

  DenseFfnSpec spec_;
  int64_t width_;
  Place place_;
  Linear gate_, up_, down_;
};

}  // namespace coterie::layers
