#include "lens/saliency.h"

#include <cmath>

namespace coterie::lens {

std::vector<double> ExpertSaliency::Layer::saliency() const {
  std::vector<double> means(sums.size());
  for (size_t e = 0; e < sums.size(); ++e) means[e] = tokens[e] > 0 ? sums[e] / static_cast<double>(tokens[e]) : 0;
  return means;
}

ExpertSaliency::ExpertSaliency(const models::ModelSpec& spec) {
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[i].ffn);
    if (!moe) continue;
    Layer& layer = layers_[static_cast<int64_t>(i)];
    layer.sums.resize(static_cast<size_t>(moe->experts_with_weights()));
    layer.tokens.resize(static_cast<size_t>(moe->experts_with_weights()));
  }
}

void ExpertSaliency::expert_outputs(int64_t number, const ops::RoutingPlan& plan, tensor::ConstMatrix out) {
  Layer& layer = layers_.at(number);
  for (int64_t e = 0; e < plan.experts(); ++e) {
    const auto i = static_cast<size_t>(e);
    for (int64_t slot = plan.expert_offset[i]; slot < plan.expert_offset[i + 1]; ++slot) {
      double squares = 0;
      for (int64_t c = 0; c < out.cols; ++c)
        squares += static_cast<double>(out.row(slot)[c]) * static_cast<double>(out.row(slot)[c]);
      // Learned scales of experts may be below 0.
      layer.sums[i] += std::abs(static_cast<double>(plan.slot_weight[static_cast<size_t>(slot)])) * std::sqrt(squares);
      ++layer.tokens[i];
    }
  }
}

}  // namespace coterie::lens
