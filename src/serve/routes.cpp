#include "serve/routes.h"

#include <algorithm>
#include <variant>

#include "layers/moe/routers/kind.h"
#include "ops/moe/plan.h"

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
    const bool any_number = layers::kind_of(moe->router.selection).any_number;
    experts_per_token = std::max(experts_per_token, any_number ? moe->router.experts : moe->router.experts_per_token);
  }
}

RoutedExperts gather(const RouteLayout& layout, const Routes& routes, int64_t positions) {
  RoutedExperts result{positions, layout.layers, layout.experts_per_token, {}};
  const int64_t each = layout.position();
  result.experts.reserve(static_cast<size_t>(positions * each));
  for (int64_t p = 0; p < positions; ++p) {
    const runtime::RoutePage& page = *routes[static_cast<size_t>(p / ops::kCacheBlock)];
    const auto begin = page.begin() + p % ops::kCacheBlock * each;
    result.experts.insert(result.experts.end(), begin, begin + each);
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
      auto at = page.begin() + position % ops::kCacheBlock * layout_.position() + layer * layout_.experts_per_token;
      const auto end = at + layout_.experts_per_token;
      const auto t = static_cast<size_t>(rows.first_row + r);
      for (auto s = static_cast<size_t>(plan.token_offset[t]); s < static_cast<size_t>(plan.token_offset[t + 1]); ++s) {
        const int32_t slot = plan.token_slot[s];
        const auto expert = std::upper_bound(plan.expert_offset.begin(), plan.expert_offset.end(), slot);
        if (at < end) *at++ = static_cast<uint16_t>(expert - plan.expert_offset.begin() - 1);
      }
      std::fill(at, end, kNoExpert);
    }
  }
}

}  // namespace coterie::serve
