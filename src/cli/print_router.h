#pragma once

#include <string>

#include "layers/moe/router_spec.h"

namespace coterie::cli {

/// Its logits: "h = W x + bias".
std::string router_map(const layers::RouterSpec& router);

/// A router's rule as a formula over its logits h = W x:
/// "p = softmax(h); experts = the 2 largest p; weight = p / sum of the chosen p".
std::string router_formula(const layers::RouterSpec& router);

/// What it does in training alone, or always when that was asked for; empty where nothing.
std::string router_in_training(const layers::RouterSpec& router);

}  // namespace coterie::cli
