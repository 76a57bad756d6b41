#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/function_ref.h"
#include "layers/batch.h"
#include "layers/ffn/ffn.h"
#include "layers/moe/experts.h"
#include "layers/moe/router.h"
#include "layers/moe/routers/soft.h"
#include "layers/norm.h"
#include "layers/specs.h"

namespace coterie::layers {

/// A sparse mixture of experts in place of the dense FFN (Shazeer et al. 2017), with an optional shared expert that
/// every token passes (Qwen2-MoE, DeepSeekMoE), or a dense FFN beside it (Gemma 4).
class Moe {
 public:
  Moe(const MoeSpec& spec, int64_t width);

  /// x, y [N, D].
  void forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const;
  /// The routed experts, for ranks that compute some of them for others.
  const Experts& experts() const { return experts_; }
  /// Null for a Soft MoE.
  const Router* router() const { return router_ ? &*router_ : nullptr; }
  void visit(TensorVisitor& visitor, const std::string& path);
  /// To be called when the weights have been bound.
  void arrange() { experts_.arrange(); }

 private:
  // y = the routed experts' part, by way of `run`(what they read, the plan of its rows, where what they give goes).
  using Run = base::FunctionRef<void(tensor::ConstMatrix, const ops::RoutingPlan&, tensor::Matrix)>;
  void forward_routed(const Batch& batch, tensor::ConstMatrix x, const ops::RoutingPlan& plan, Run run,
                      tensor::Matrix y) const;
  void forward_scaled(const Batch& batch, tensor::ConstMatrix x, const ops::RoutingPlan& plan, Run run,
                      tensor::Matrix y) const;
  void forward_soft(const Batch& batch, int64_t layer, tensor::ConstMatrix x, Run run, tensor::Matrix y) const;
  /// s = the shared expert of x, before its gate.
  void forward_shared(const Batch& batch, tensor::ConstMatrix x, tensor::Matrix s) const;

  MoeSpec spec_;
  int64_t width_;
  std::optional<Router> router_;  // or
  std::optional<SoftRouter> soft_;
  Experts experts_;
  std::optional<DenseFfn> shared_;
  std::optional<Norm> shared_norm_, shared_post_norm_, experts_norm_, experts_post_norm_;
  tensor::Weight shared_gate_;     // [1, D]
  Vector bias_;                    // [D]
  Linear latent_in_, latent_out_;  // [latent, D], [D, latent]
};

}  // namespace coterie::layers
