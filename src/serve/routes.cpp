#include "serve/routes.h"

#include <algorithm>
#include <variant>

#include "layers/moe/routers/kind.h"
#include "lens/choices.h"
#include "ops/moe/plan.h"
#include "tensor/half.h"

namespace coterie::serve {

RouteLayout::RouteLayout(const models::ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks) {
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    // A Soft MoE has no choice that could be told.
    if (!moe || moe->router.selection == layers::RouterSpec::Selection::soft) {
      layer.push_back(-1);
      continue;
    }
    layer.push_back(layers++);
    experts.push_back(moe->router.experts);
    scores.push_back(moe->router.score);
    const bool any_number = layers::kind_of(moe->router.selection).any_number;
    experts_per_token = std::max(experts_per_token, any_number ? moe->router.experts : moe->router.experts_per_token);
  }
}

namespace {

runtime::RoutePage::const_iterator place(const RouteLayout& layout, const Routes& routes, int64_t position) {
  return routes[static_cast<size_t>(position / ops::kCacheBlock)]->begin() +
         position % ops::kCacheBlock * layout.position();
}

}  // namespace

RoutedExperts gather(const RouteLayout& layout, const Routes& routes, int64_t positions) {
  RoutedExperts result{positions, layout.layers, layout.experts_per_token, {}};
  result.experts.reserve(static_cast<size_t>(positions * layout.choices()));
  for (int64_t p = 0; p < positions; ++p) {
    const auto begin = place(layout, routes, p);
    result.experts.insert(result.experts.end(), begin, begin + layout.choices());
  }
  return result;
}

RoutesKnown known(const RouteLayout& layout, const Routes& routes, int64_t first, int64_t end) {
  RoutesKnown result{.first = first,
                     .positions = end - first,
                     .layers = layout.layers,
                     .experts_per_token = layout.experts_per_token,
                     .experts = {},
                     .weights = {},
                     .entropy = {}};
  for (int64_t p = first; p < end; ++p) {
    const auto experts = place(layout, routes, p);
    const auto weights = experts + layout.choices(), entropy = weights + layout.choices();
    result.experts.insert(result.experts.end(), experts, weights);
    result.weights.insert(result.weights.end(), weights, entropy);
    result.entropy.insert(result.entropy.end(), entropy, entropy + layout.layers);
  }
  return result;
}

RouteRecorder::RouteRecorder(const RouteLayout& layout) : layout_(layout) {
  for (const int64_t experts : layout.experts) expert_tokens.emplace_back(static_cast<size_t>(experts), 0);
}

void RouteRecorder::routed(const layers::Routed& router) {
  // Layers of an ensemble's further models are not in the layout.
  if (router.layer >= std::ssize(layout_.layer) || layout_.layer[static_cast<size_t>(router.layer)] < 0) return;
  const int64_t layer = layout_.layer[static_cast<size_t>(router.layer)];
  const ops::RoutingPlan& plan = router.plan;
  int64_t taken = 0;
  for (int64_t e = 0; e < std::min(plan.experts(), layout_.experts[static_cast<size_t>(layer)]); ++e) {
    const auto tokens = plan.tokens_of(e).size();
    taken += tokens > 0 ? 1 : 0;
    expert_tokens[static_cast<size_t>(layer)][static_cast<size_t>(e)] += tokens;
  }
  distinct.push_back(taken);

  for (const layers::SequenceRows& rows : router.sequences) {
    const auto watched = watched_.find(rows.step.state);
    if (watched == watched_.end()) continue;
    for (int64_t r = 0; r < rows.rows; ++r) {
      const int64_t position = rows.first_position + r;
      runtime::RoutePage& page = *(*watched->second)[static_cast<size_t>(position / ops::kCacheBlock)];
      const auto begin = page.begin() + position % ops::kCacheBlock * layout_.position();
      auto at = begin + layer * layout_.experts_per_token;
      const auto end = at + layout_.experts_per_token;
      auto weight = at + layout_.choices();
      const auto t = static_cast<size_t>(rows.first_row + r);
      for (auto s = static_cast<size_t>(plan.token_offset[t]); s < static_cast<size_t>(plan.token_offset[t + 1]); ++s) {
        const int32_t slot = plan.token_slot[s];
        const auto expert = std::upper_bound(plan.expert_offset.begin(), plan.expert_offset.end(), slot);
        if (at == end) break;
        *at++ = static_cast<uint16_t>(expert - plan.expert_offset.begin() - 1);
        *weight++ = tensor::f32_to_f16(plan.slot_weight[static_cast<size_t>(slot)]);
      }
      std::fill(weight, weight + (end - at), uint16_t{0});
      std::fill(at, end, kNoExpert);
      begin[2 * layout_.choices() + layer] = tensor::f32_to_f16(
          lens::score_entropy(layout_.scores[static_cast<size_t>(layer)],
                              {router.logits.row(rows.first_row + r), static_cast<size_t>(router.logits.cols)}));
    }
  }
}

}  // namespace coterie::serve
