#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "layers/attention/attention.h"
#include "layers/batch.h"
#include "layers/ffn/ffn.h"
#include "layers/moe/moe.h"
#include "layers/norm.h"
#include "layers/specs.h"

namespace coterie::layers {

/// One decoder block: norm → mixer → residual → norm → FFN → residual.
struct BlockSpec {
  NormSpec mixer_norm;
  std::variant<AttentionSpec> mixer;
  NormSpec ffn_norm;
  std::variant<DenseFfnSpec, MoeSpec> ffn;
};

class Block {
 public:
  Block(const BlockSpec& spec, int64_t width);

  /// x [N, D], in place.
  void forward(const Batch& batch, int64_t layer, tensor::Matrix x) const;
  void visit(TensorVisitor& visitor, const std::string& path);
  /// To be called when the weights have been bound.
  void arrange();

 private:
  Norm mixer_norm_;
  std::variant<Attention> mixer_;
  Norm ffn_norm_;
  std::variant<DenseFfn, Moe> ffn_;
};

}  // namespace coterie::layers
