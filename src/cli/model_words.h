#pragma once

#include <string>
#include <vector>

#include "models/spec.h"

namespace coterie::cli {

/// What a model is, in sentences, one a line: layers that are alike are described together.
std::vector<std::string> describe(const models::ModelSpec& spec);

/// A router's rule as a formula over its logits h = W x:
/// "p = softmax(h); experts = the 2 largest p; weight = p / sum of the chosen p".
std::string router_formula(const layers::RouterSpec& router);

/// "0-3, 5, 7-31"
std::string ranges(const std::vector<int64_t>& ascending);

}  // namespace coterie::cli
