#include "models/shown_weights.h"

namespace coterie::models {

void ShownWeights::input(const ops::Weight& weight, ops::ConstMatrix x, std::span<const int32_t> rows) {
  if (!products_) return;
  if (const layers::WeightName* name = names_.find(weight))
    observer_.product({.layer = layer, .weight = *name, .x = x, .rows = rows});
}

bool ShownWeights::wants_outputs(std::span<const ops::ExpertOutput> experts) const {
  if (experts.empty() || !observer_.wants_expert_outputs()) return false;
  // A dense FFN is one expert, and the heads of latent attention are taken for experts, too: these are not meant.
  const layers::WeightName* name = names_.find(experts.front().down);
  return name && name->place == layers::Place::experts;
}

void ShownWeights::outputs(const ops::RoutingPlan& plan, std::span<const ops::ExpertOutput>, ops::ConstMatrix out) {
  observer_.expert_outputs(layer, plan, out);
}

std::unique_ptr<ShownWeights> show_weights(layers::Observer* observer, const layers::WeightNames& names) {
  if (!observer || !(observer->wants_products() || observer->wants_expert_outputs())) return nullptr;
  return std::make_unique<ShownWeights>(*observer, names);
}

}  // namespace coterie::models
