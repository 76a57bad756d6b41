#pragma once

#include <string>

#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"

namespace coterie::layers {

/// Linear attention by the gated delta rule (Yang, Kautz & Hatamizadeh 2024, arXiv:2412.06464, figure 1; with a decay
/// for each channel Kimi Delta Attention, arXiv:2510.26692, section 4): q, k and v through a short convolution, queries
/// and keys of length one, the recurrence of each head, an RMSNorm of what it reads and a gate.
class DeltaRule {
 public:
  DeltaRule(const DeltaRuleSpec& spec, int64_t width) : spec_(spec), width_(width) {}

  /// x, y [N, D]. Moves the sequences' recurrent states of this layer on by the batch's rows.
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const;
  void visit(TensorVisitor& visitor, const std::string& path);
  /// To be called when the weights have been bound.
  void arrange();

 private:
  /// A projection, in one matrix or two.
  struct LowRank {
    Linear whole, a, b;
  };
  void visit_low_rank(TensorVisitor& visitor, const std::string& path, int64_t rows, int64_t rank,
                      const ListedTensor& order, LowRank& slot);
  void project_low_rank(const Batch& batch, tensor::ConstMatrix x, const LowRank& by, tensor::Matrix y) const;

  DeltaRuleSpec spec_;
  int64_t width_;
  Linear qkv_;                     // [C, D], or
  Linear parts_[3];                // q, k and v
  LowRank decay_, gate_;           // to [H or H K], [V]
  Linear beta_, out_;              // [H, D], [D, V]
  Vector taps_, part_taps_[3];     // [C, width]
  Vector a_log_, dt_bias_, norm_;  // [H], [H or H K], [value_dim]
  // As the ops take them.
  tensor::Buffer<float> taps_by_channel_[3], a_;   // [width, channels] of each convolution, [H]
  tensor::Buffer<float> query_scale_, key_scale_;  // [K]: what a normed query and key are multiplied by
};

}  // namespace coterie::layers
