#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "layers/moe/expert_source.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"
#include "ops/moe/experts.h"

namespace coterie::layers {

/// The routed experts of one layer: E small gated FFNs (those that have weights), evaluated expert by expert over the
/// tokens a plan sends them.
class Experts {
 public:
  Experts(const MoeSpec& spec, int64_t width) : spec_(spec), width_(width) {}

  /// y[t] = Σ over the plan's slots of t: weight * down(act(gate x) * up x). x, y [N, D].
  void forward(ops::Context& context, tensor::ConstMatrix x, const ops::RoutingPlan& plan, tensor::Matrix y,
               const ops::ExpertDropout& dropped = {}) const;
  /// The same with the weights of experts from `source`, to the bit. Under a tape, and with experts dropped, for a
  /// source that computes them alone. `meanwhile` is called, unless it does, when all that is here has been computed,
  /// before what comes from elsewhere is waited for.
  void forward(ops::Context& context, int64_t layer, tensor::ConstMatrix x, const ops::RoutingPlan& plan,
               ExpertSource& source, tensor::Matrix y, const ops::ExpertDropout& dropped,
               base::FunctionRef<void()> meanwhile) const;
  /// What the experts `ids` give for their slots of `plan` (ops::expert_outputs): x [N, D], out [slots, D].
  void outputs(ops::Context& context, const ops::FormedRows& x, const ops::RoutingPlan& plan,
               std::span<const int32_t> ids, tensor::Matrix out) const;
  void visit(TensorVisitor& visitor, const std::string& path);
  /// To be called when the weights have been bound.
  void arrange();
  /// [E]: what is bound (arrange).
  std::span<const ops::ExpertInput> inputs() const { return inputs_; }

 private:
  ops::GateRule rule() const;

  MoeSpec spec_;
  int64_t width_;
  std::vector<tensor::Weight> gate_, up_, down_;            // [E] of [F, D], [F, D], [D, F]
  std::vector<ops::LowRank> gate_low_, up_low_, down_low_;  // [E], their LoRAs; or empty
  Vector gate_bias_, up_bias_, down_bias_;                  // [E, F], [E, F], [E, D]
  std::vector<ops::ExpertInput> inputs_;                    // the same, as the grouped matmuls take them
  std::vector<ops::ExpertOutput> outputs_;
};

}  // namespace coterie::layers
