#pragma once

#include <string>
#include <vector>

#include "layers/batch.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"

namespace coterie::layers {

/// Lightning attention (MiniMax-01, arXiv:2501.08313 §2.2): linear attention whose state decays by a constant of the
/// head. It is Mamba-2's scan with a time step of 1, keys as what goes into the state and queries as what reads it.
class Lightning {
 public:
  Lightning(const LightningSpec& spec, int64_t width);

  /// x, y [N, D]. Moves the sequences' recurrent states of this layer on by the batch's rows.
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const;
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  LightningSpec spec_;
  int64_t width_;
  std::vector<float> decay_, zeros_;  // [H]: -s_h, and that values are added nowhere beside the state
  Linear qkv_, gate_, out_;           // [3 H d, D], each head's query, key and value together; [H d, D]; [D, H d]
  Vector norm_;                       // [H d]
};

}  // namespace coterie::layers
