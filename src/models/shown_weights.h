#pragma once

#include <memory>

#include "layers/observer.h"
#include "layers/weight_names.h"
#include "ops/observer.h"

namespace coterie::models {

/// What ops show, handed on to a pass's observer under the weights' names.
class ShownWeights final : public ops::WeightObserver {
 public:
  ShownWeights(layers::Observer& observer, const layers::WeightNames& names)
      : observer_(observer), names_(names), products_(observer.wants_products()) {}

  int64_t layer = -1;  // that is being computed

  void input(const ops::Weight& weight, ops::ConstMatrix x) override { input(weight, x, {}); }
  void input(const ops::Weight& weight, ops::ConstMatrix x, std::span<const int32_t> rows) override;
  bool wants_outputs(std::span<const ops::ExpertOutput> experts) const override;
  void outputs(const ops::RoutingPlan& plan, std::span<const ops::ExpertOutput> experts, ops::ConstMatrix out) override;

 private:
  layers::Observer& observer_;
  const layers::WeightNames& names_;
  bool products_;
};

/// Null when nobody wants to see products or experts' outputs.
std::unique_ptr<ShownWeights> show_weights(layers::Observer* observer, const layers::WeightNames& names);

}  // namespace coterie::models
