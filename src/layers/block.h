#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "layers/attention/attention.h"
#include "layers/attention/latent.h"
#include "layers/batch.h"
#include "layers/ffn/ffn.h"
#include "layers/moe/moe.h"
#include "layers/norm.h"
#include "layers/shared_block.h"
#include "layers/specs.h"
#include "layers/ssm/delta_rule.h"
#include "layers/ssm/lightning.h"
#include "layers/ssm/mamba.h"
#include "layers/ssm/mamba2.h"
#include "layers/ssm/short_conv.h"

namespace coterie::layers {

/// A block that is its mixer alone (Mamba).
struct NoFfnSpec {};

/// A block that is its FFN alone (Nemotron-H).
struct NoMixerSpec {};

/// That a block begins with a shared transformer block (Zamba).
struct SharedUseSpec {
  int64_t block = 0;  // which of the model's shared blocks
  int64_t use = 0;    // which of all uses in the model: that of its adapters
};

/// One decoder block: norm → mixer → post-norm → residual → norm → FFN → post-norm → residual. Most families have
/// the norms before and none after; OLMo 2 has it the other way round, Gemma 2 and 3 have both.
struct BlockSpec {
  std::optional<SharedUseSpec> shared;
  std::optional<NormSpec> mixer_norm;
  std::variant<AttentionSpec, LatentAttentionSpec, MambaSpec, Mamba2Spec, DeltaRuleSpec, ShortConvSpec, NoMixerSpec,
               LightningSpec>
      mixer;
  std::optional<NormSpec> mixer_post_norm;
  std::optional<NormSpec> ffn_norm;
  std::variant<DenseFfnSpec, MoeSpec, NoFfnSpec> ffn;
  std::optional<NormSpec> ffn_post_norm;
  float residual_multiplier = 1;  // of what is added to the residual stream, both times (Granite)
  ResidualSpec mixer_residual, ffn_residual;
  bool adds_shortcut = false;  // at its end, what the block before left (MoeSpec::shortcut)
  bool output_scale = false;   // its result is multiplied by a number of its own, which is not trained (Gemma 4)
};

class Block {
 public:
  /// `shared`: the model's shared blocks; the first block that uses one lists its tensors as its own.
  Block(const BlockSpec& spec, int64_t width, std::span<const std::shared_ptr<SharedBlock>> shared = {});

  /// x [N, D], in place.
  void forward(const Batch& batch, int64_t layer, tensor::Matrix x) const;
  void visit(TensorVisitor& visitor, const std::string& path);
  /// To be called when the weights have been bound.
  void arrange();
  /// Its routed experts; null where its FFN has none.
  const Experts* experts() const;
  /// Whether its FFN has experts that tokens are sent to.
  bool has_router() const;
  /// Where its router would send x [N, D], were that its residual stream before the FFN. To be asked of such a block.
  ops::RoutingPlan route(const Batch& batch, int64_t layer, tensor::ConstMatrix x) const;

 private:
  // x = kept * x + added * y, in the order that keeps the bits of plain addition.
  void join(ops::Context& context, const ResidualSpec& residual, tensor::ConstMatrix y, tensor::Matrix x) const;
  // x += mixer(norm(x)), by way of h and y, [N, D] too.
  void mix(const Batch& batch, int64_t layer, tensor::Matrix x, tensor::Matrix h, tensor::Matrix y) const;

  std::optional<SharedUse> shared_;
  std::optional<Norm> mixer_norm_;
  std::variant<Attention, LatentAttention, Mamba, Mamba2, DeltaRule, ShortConv, std::monostate, Lightning> mixer_;
  std::optional<Norm> mixer_post_norm_;
  std::optional<Norm> ffn_norm_;
  std::variant<std::monostate, DenseFfn, Moe> ffn_;
  std::optional<Norm> ffn_post_norm_;
  float residual_multiplier_;
  ResidualSpec mixer_residual_, ffn_residual_;
  bool adds_shortcut_, has_output_scale_;
  Vector output_scale_;  // [1]
};

}  // namespace coterie::layers
