#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "layers/moe/router_spec.h"
#include "layers/observer.h"
#include "models/spec.h"
#include "ops/attention.h"
#include "runtime/prefix_cache.h"
#include "serve/request.h"

namespace coterie::serve {

/// What a RoutePage holds of each of its 16 positions, of the layers with routers in order: experts [layers, K], their
/// weights [layers, K] and the entropy of the router's scores [layers], both f16.
struct RouteLayout {
  explicit RouteLayout(const models::ModelSpec& spec);

  std::vector<int64_t> layer;    // of the model's layer l which of those with routers it is, or -1
  std::vector<int64_t> experts;  // [layers]: E of each
  std::vector<coterie::layers::RouterSpec::Score> scores;  // [layers]
  int64_t layers = 0, experts_per_token = 0;

  int64_t choices() const { return layers * experts_per_token; }
  int64_t position() const { return 2 * choices() + layers; }
  int64_t page_bytes() const { return ops::kCacheBlock * position() * static_cast<int64_t>(sizeof(uint16_t)); }
};
inline constexpr uint16_t kNoExpert = 65535;

/// The route pages of a sequence, as many as it has positions; those of a prefix are shared with the cache.
using Routes = std::vector<std::shared_ptr<runtime::RoutePage>>;

/// The experts of the first `positions`, in one piece.
RoutedExperts gather(const RouteLayout& layout, const Routes& routes, int64_t positions);

/// What is known of positions first … end - 1.
RoutesKnown known(const RouteLayout& layout, const Routes& routes, int64_t first, int64_t end);

/// Writes down, during a step, which experts each token of the sequences it watches is sent to, and how many there are
/// in all.
class RouteRecorder final : public layers::Observer {
 public:
  explicit RouteRecorder(const RouteLayout& layout);

  void clear() { watched_.clear(), distinct.clear(); }
  /// `routes` must have pages for what the sequence of `state` evaluates.
  void watch(const layers::SequenceState* state, Routes& routes) { watched_[state] = &routes; }
  void routed(const layers::Routed& router) override;

  std::vector<int64_t> distinct;                     // experts that some token took, for each router of the step
  std::vector<std::vector<uint64_t>> expert_tokens;  // [layers][E], since the start

 private:
  const RouteLayout& layout_;
  std::map<const layers::SequenceState*, Routes*> watched_;
};

}  // namespace coterie::serve
