#pragma once

#include <string>

#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"

namespace coterie::layers {

/// The mixer of Mamba (Gu & Dao 2023, arXiv:2312.00752, figure 3): two projections, a short convolution, the selective
/// scan, and a gate. With heads, as Zamba has it (arXiv:2405.16712), and with norms of dt, B and C, as Jamba
/// (arXiv:2403.19887) and FalconMamba (arXiv:2410.05355) have them.
class Mamba {
 public:
  Mamba(const MambaSpec& spec, int64_t width) : spec_(spec), width_(width) {}

  /// x, y [N, D]. Moves the sequences' recurrent states of this layer on by the batch's rows.
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const;
  void visit(TensorVisitor& visitor, const std::string& path);
  /// To be called when the weights have been bound.
  void arrange();

 private:
  // What a token selects: dt [N, r], b and c [N, S] of one head, in the columns of its projection.
  struct Selection {
    tensor::Matrix dt, b, c;
  };
  Selection selection_of(tensor::Matrix projected, int64_t head) const;
  void norm_selection(ops::Context& context, const Selection& selection) const;

  MambaSpec spec_;
  int64_t width_;
  Linear in_, gate_, out_;   // [C, D], [C, D], [D, C]
  Vector taps_, conv_bias_;  // [C, width], [C]
  tensor::Weight select_;    // [heads (r + 2S), C / heads]: dt, B and C of each head
  tensor::Weight dt_;        // [C, r]
  Vector dt_bias_;           // [C]
  Vector dt_norm_, b_norm_, c_norm_;
  Vector a_log_, d_;  // [C, S], [C]
  // As the ops take them.
  tensor::Buffer<float> taps_by_channel_, a_by_channel_;  // [width, C], [S, C]
};

}  // namespace coterie::layers
