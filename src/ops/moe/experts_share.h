#pragma once

#include <memory>
#include <span>

#include "ops/moe/experts.h"
#include "ops/tape.h"

namespace coterie::ops {

struct KeptOfExperts;
class ExpertsBackward;

/// Some of a layer's experts, computed for rows whose sums over experts are made elsewhere: what the owner of experts
/// does in training for those that have the tokens. Together with combine() and add_parts() over the slots of all
/// owners it is experts() and its backward, to the bit.
class ExpertsShare {
 public:
  /// `plan`: of rows of x; experts that are not here have no slots. `inputs`, `outputs` [E].
  ExpertsShare(RoutingPlan plan, std::span<const ExpertInput> inputs, std::span<const ExpertOutput> outputs,
               const GateRule& rule, int64_t hidden, const ExpertDropout& dropped);
  ~ExpertsShare();
  ExpertsShare(ExpertsShare&&) noexcept;

  /// out [slots, D] = what each slot's expert gives, unweighted. With `memory` what the backward needs is kept there,
  /// x [N, D] as well; it must stay until weight_gradients() has returned. Nothing is recorded.
  void forward(const Context& context, ConstMatrix x, tensor::Arena* memory, Matrix out);
  /// After such a forward: dy [N, D] of the rows, and by what the slots' outputs were multiplied. Adds to
  /// weight_gradient [slots], and parts [slots, D] = each slot's share of dx.
  void row_gradients(Reverse& back, ConstMatrix dy, std::span<const float> slot_weight, float* weight_gradient,
                     Matrix parts);
  /// Then: adds to the gradients of the experts' weights. dy must still be there.
  void weight_gradients();

 private:
  std::unique_ptr<KeptOfExperts> kept_;
  std::unique_ptr<ExpertsBackward> backward_;
  int64_t hidden_;
  std::span<const DropoutRow> rows_;
};

/// Experts whose outputs are made elsewhere, by several owners perhaps.
class ExpertsElsewhere {
 public:
  virtual ~ExpertsElsewhere() = default;
  /// out [slots, D] = what each slot's expert gives for its row of x [N, D]. `keep`: gradients() will follow.
  virtual void outputs(const Context& context, ConstMatrix x, const RoutingPlan& plan, bool keep, Matrix out) = 0;
  /// dy [N, D]. Adds to weight_gradient [slots], and parts [slots, D] = each slot's share of dx. The gradients of the
  /// experts' weights are the owners' affair.
  virtual void gradients(Reverse& back, const RoutingPlan& plan, ConstMatrix dy, float* weight_gradient,
                         Matrix parts) = 0;
};

/// y[t] = Σ_{slots s of t} slot_weight[s] * out[s], with out made by `owners`: experts(), to the bit, where these are
/// ExpertsShares. Recorded on the context's tape where one is open.
void experts_elsewhere(Context& context, ConstMatrix x, const RoutingPlan& plan,
                       std::shared_ptr<ExpertsElsewhere> owners, Matrix y);

}  // namespace coterie::ops
