#pragma once

#include "layers/moe/expert_source.h"
#include "ops/context.h"
#include "ops/moe/experts.h"

namespace coterie::layers {

/// How a layer's experts are computed.
struct ExpertWork {
  ops::GateRule rule;
  int64_t hidden = 0;               // F
  ops::ExpertDropout dropped = {};  // in training
};

/// A source that computes the experts itself, in training and for a Soft MoE too, instead of handing them out: several
/// ranks, of which each has samples of its own and owns some experts.
class ExpertComputer : public ExpertSource {
 public:
  /// y [N, D] = the weighted sum of each token's experts, recorded on the context's tape where one is open.
  virtual void compute(ops::Context& context, const ExpertCall& call, const ExpertWork& work, tensor::Matrix y) = 0;

  std::unique_ptr<ExpertLease> lease(const ExpertCall& call) final;
};

/// The source as such a one; null where it hands experts out, or is null.
ExpertComputer* computer(ExpertSource* source);

}  // namespace coterie::layers
