#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "layers/moe/router_hook.h"
#include "lens/silence.h"
#include "models/spec.h"

namespace coterie::lens {

/// What is to be different about the routers of one sequence.
struct RouterChange {
  ExpertSet silenced = {};                        // get no token of it
  std::optional<int64_t> experts_per_token = {};  // in place of K, of which it may be no more
  std::optional<float> sample = {};               // experts are drawn in proportion to exp(logit / sample)

  bool empty() const { return silenced.empty() && !experts_per_token && !sample; }
  /// Says all of it: equal for changes that do the same.
  std::string key() const;
};

/// Carries a RouterChange out for the sequences it is given to. With `experts_per_token` and `sample` alone it gives
/// the bits of a model that was opened with them (--experts-per-token, --router sample:T).
class ChangedRouters final : public layers::RouterHook {
 public:
  /// Throws bad_input for layers and experts that are not there, for fewer experts left than a token takes, for numbers
  /// outside their ranges and a model without routers; unsupported for rules that cannot be changed token by token.
  ChangedRouters(const models::ModelSpec& spec, const RouterChange& change);
  const layers::RouterSpec* rule(int64_t layer) const override;
  void logits(int64_t layer, int64_t first_position, tensor::Matrix logits) const override;

 private:
  std::vector<std::optional<layers::RouterSpec>> rules_;  // [layers of the model]; none: the router's own
  std::optional<Silence> silence_;
};

}  // namespace coterie::lens
