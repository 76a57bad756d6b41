#include "lens/router_change.h"

#include <fmt/format.h>

#include <bit>
#include <utility>

#include "base/error.h"
#include "layers/moe/routers/kind.h"

namespace coterie::lens {

using base::ErrorKind;
using Selection = layers::RouterSpec::Selection;

std::string RouterChange::key() const {
  std::string key;
  for (const auto& [layer, experts] : silenced)
    for (const int64_t expert : experts) key += fmt::format("silence {}:{} ", layer, expert);
  if (experts_per_token) key += fmt::format("experts {} ", *experts_per_token);
  if (sample) key += fmt::format("sample {:x} ", std::bit_cast<uint32_t>(*sample));
  return key;
}

namespace {

layers::RouterSpec changed(layers::RouterSpec router, const RouterChange& change, size_t layer) {
  const layers::RouterKind& kind = layers::kind_of(router.selection);
  if (!kind.choose || kind.assign)
    base::fail(ErrorKind::unsupported, "routers", "layer {} routes by {}, which looks at all tokens together", layer,
               kind.name);
  if (change.experts_per_token) {
    const int64_t k = *change.experts_per_token;
    if (k < 1 || k > router.experts_per_token)
      base::fail(ErrorKind::bad_input, "experts_per_token", "is {}, and layer {} takes 1 to {}", k, layer,
                 router.experts_per_token);
    router.experts_per_token = k;
  }
  if (change.sample) {
    if (router.selection != Selection::top_k && router.selection != Selection::sample)
      base::fail(ErrorKind::unsupported, "router",
                 "sample works with routers that choose the best k; layer {} chooses by {}", layer, kind.name);
    router.selection = Selection::sample;
    router.temperature = *change.sample;
  }
  layers::check(router, "router");
  return router;
}

}  // namespace

ChangedRouters::ChangedRouters(const models::ModelSpec& spec, const RouterChange& change) {
  models::ModelSpec after = spec;
  rules_.resize(spec.blocks.size());
  bool routed = false;
  for (size_t layer = 0; layer < after.blocks.size(); ++layer) {
    auto* moe = std::get_if<layers::MoeSpec>(&after.blocks[layer].ffn);
    if (!moe) continue;
    routed = true;
    if (!change.experts_per_token && !change.sample) continue;
    moe->router = changed(moe->router, change, layer);
    rules_[layer] = moe->router;
  }
  if (!routed && !change.empty())
    base::fail(ErrorKind::bad_input, "routers", "a {} model has none", spec.family.shown());
  if (!change.silenced.empty()) silence_.emplace(after, change.silenced);
}

const layers::RouterSpec* ChangedRouters::rule(int64_t layer) const {
  const auto at = static_cast<size_t>(layer);
  return at < rules_.size() && rules_[at] ? &*rules_[at] : nullptr;
}

void ChangedRouters::logits(int64_t layer, int64_t first_position, tensor::Matrix logits) const {
  if (silence_) silence_->logits(layer, first_position, logits);
}

}  // namespace coterie::lens
