#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "layers/moe/router_hook.h"
#include "models/spec.h"

namespace coterie::lens {

/// Experts by the number of their block.
using ExpertSet = std::map<int64_t, std::set<int64_t>>;

/// Takes experts away from one sequence: its tokens go to the best of those left.
class Silence final : public layers::RouterHook {
 public:
  /// Throws bad_input for a layer without a router, an expert that is not there, and fewer experts left than a token
  /// takes; unsupported for a Soft MoE.
  Silence(const models::ModelSpec& spec, ExpertSet experts);
  void logits(int64_t layer, int64_t first_position, tensor::Matrix logits) const override;

 private:
  ExpertSet experts_;
};

/// "3:7", or several "3:0,5,7". Added to `experts`. Throws bad_input, naming `where`, for what is neither.
void read_experts(const std::string& text, const std::string& where, ExpertSet& experts);

}  // namespace coterie::lens
