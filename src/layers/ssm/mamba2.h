#pragma once

#include <string>

#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"

namespace coterie::layers {

/// The mixer of Mamba-2 (Dao & Gu 2024, arXiv:2405.21060, figure 6): one projection to gate, x, B, C and dt, a short
/// convolution of x, B and C, the scan of the heads, and an RMSNorm of the gated result over each group.
class Mamba2 {
 public:
  Mamba2(const Mamba2Spec& spec, int64_t width) : spec_(spec), width_(width) {}

  /// x, y [N, D]. Moves the sequences' recurrent states of this layer on by the batch's rows.
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const;
  void visit(TensorVisitor& visitor, const std::string& path);
  /// To be called when the weights have been bound.
  void arrange();

 private:
  Mamba2Spec spec_;
  int64_t width_;
  Linear in_, out_;             // [inner + conv_channels + H, D], [D, inner]
  Vector taps_, conv_bias_;     // [conv_channels, width], [conv_channels]
  Vector a_log_, d_, dt_bias_;  // [H]
  Vector norm_;                 // [inner]
  // As the ops take them.
  tensor::Buffer<float> taps_by_channel_, a_;  // [width, conv_channels], [H]
};

}  // namespace coterie::layers
