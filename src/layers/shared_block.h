#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "layers/attention/attention.h"
#include "layers/batch.h"
#include "layers/norm.h"
#include "layers/specs.h"

namespace coterie::layers {

/// A transformer block whose weights several blocks of the model share (Zamba, arXiv:2405.16712, figure 2; Zamba2,
/// arXiv:2411.15242). It reads the residual stream beside the embedded tokens, [N, 2D], and has no residuals of its
/// own: norm → attention → norm → FFN. Zamba2 adds to its projections a low-rank adapter for each use.
struct SharedBlockSpec {
  NormSpec norm, ffn_norm;
  AttentionSpec attention;
  DenseFfnSpec ffn;
  int64_t attention_adapter_rank = 0, ffn_adapter_rank = 0;  // 0 = none
  // Numbers count the uses in the model, in ascending order: those it has adapters for, and the first that is its own.
  std::vector<int64_t> adapters;
  int64_t first_use = 0;
};

class SharedBlock {
 public:
  SharedBlock(const SharedBlockSpec& spec, int64_t width);

  /// x, y [N, D]; `use` is one of spec.adapters.
  void forward(const Batch& batch, int64_t layer, int64_t use, tensor::ConstMatrix x, tensor::Matrix y) const;
  void visit(TensorVisitor& visitor, const std::string& path);
  int64_t first_use() const { return spec_.first_use; }

 private:
  // y += up · down · x
  struct Adapter {
    tensor::Weight down, up;  // [r, inputs], [outputs, r]
    void visit(TensorVisitor& visitor, const std::string& path, int64_t inputs, int64_t rank, int64_t outputs);
    void add(ops::Context& context, tensor::ConstMatrix x, tensor::Matrix y) const;
  };
  struct Adapters {
    Adapter q, k, v, gate_up;
  };
  const Adapters& adapters_of(int64_t use) const;
  void feed_forward(ops::Context& context, const Adapters& adapters, tensor::ConstMatrix x, tensor::Matrix y) const;

  SharedBlockSpec spec_;
  int64_t width_;
  Norm norm_;
  Attention attention_;
  Norm ffn_norm_;
  Linear gate_, up_, down_;
  std::vector<Adapters> adapters_;  // of each of spec.adapters
};

/// One use of a shared block: what it gives, through a projection of this use's own, is added to the mixer's input.
class SharedUse {
 public:
  SharedUse(std::shared_ptr<SharedBlock> block, int64_t use, int64_t width)
      : block_(std::move(block)), use_(use), width_(width) {}

  /// x, y [N, D].
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const;
  /// Lists the shared block too if this is its first use.
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  std::shared_ptr<SharedBlock> block_;
  int64_t use_, width_;
  tensor::Weight projection_;  // [D, D]
};

}  // namespace coterie::layers
