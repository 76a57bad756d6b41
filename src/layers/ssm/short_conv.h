#pragma once

#include <string>

#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"

namespace coterie::layers {

/// The gated short convolution of LFM2 (arXiv:2511.23404): b, c, u = W_in x; y = W_out (c · conv(b · u)), the
/// convolution causal, of each channel with its own taps, and without an activation.
class ShortConv {
 public:
  ShortConv(const ShortConvSpec& spec, int64_t width) : spec_(spec), width_(width) {}

  /// x, y [N, D]. Moves the sequences' last inputs of the convolution of this layer on by the batch's rows.
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const;
  void visit(TensorVisitor& visitor, const std::string& path);
  /// To be called when the weights have been bound.
  void arrange();

 private:
  ShortConvSpec spec_;
  int64_t width_;
  Linear in_, out_;                        // [3D, D], [D, D]
  Vector taps_, conv_bias_;                // [D, width], [D]
  tensor::Buffer<float> taps_by_channel_;  // [width, D]
};

}  // namespace coterie::layers
