#pragma once

#include <string>

#include "base/json.h"
#include "layers/moe/load.h"
#include "models/spec.h"

namespace coterie::cli {

/// A tap for all routers of the model. Throws bad_input, naming --experts, when it has none.
layers::RouterLoads experts_listener(const models::ModelSpec& spec);

/// A line for each layer: how many of its tokens each expert got, as bars, and the ones used most and never.
std::string describe_experts(const layers::RouterLoads& loads);
/// By layer: each expert's share of the tokens.
base::Json experts_as_json(const layers::RouterLoads& loads);

}  // namespace coterie::cli
