#pragma once

#include <string_view>

#include "serve/api/fields.h"
#include "serve/api/model.h"
#include "serve/request.h"

namespace coterie::serve {

/// The fields that ask for experts: `routed_experts` (`return_routed_experts`), and the object `coterie`:
///   experts: true             what routers did with each token comes with the chunks of a stream, or with the answer
///   silence: ["3:7", "4:1"]   experts (LAYER:EXPERT) that get no token of this request
///   experts_per_token: 4      in place of the model's K, of which it may be no more
///   router: "sample:0.7"      experts are drawn in proportion to exp(logit / 0.7)
/// Throws ApiError 400 that names the field.
void read_expert_fields(Fields& fields, const ServedModel& model, Request& request);

/// {"routes": [{"first", "positions", "layers", "experts_per_token", "experts", "weights", "entropy"}]}: the last three
/// in base64, little-endian: u16 [positions, layers, K] (65535: none), f16 the same, f16 [positions, layers].
base::Json routes_json(const std::vector<RoutesKnown>& routes);
/// A list for each token: the weight of each of an ensemble's models, or null where none was asked.
base::Json model_weights_json(const std::vector<std::vector<float>>& tokens);

}  // namespace coterie::serve
