#pragma once

#include <string>

#include "base/json.h"
#include "layers/moe/router_spec.h"

namespace coterie::families {

/// A router as a JSON object, the `router` of a config.json of model_type coterie and of a recipe: every field of
/// RouterSpec by its name there, values of enumerations by theirs. `experts` and `experts_per_token` must be there,
/// everything else has RouterSpec's default. Refuses unknown keys (with the nearest known one), unknown values (with
/// the list), keys that mean nothing beside the others (a temperature without sampling), and what layers::check
/// refuses. `where` names the object in errors: "config.json: router".
layers::RouterSpec read_router(const base::Json& object, const std::string& where);

/// The object that read_router reads as `spec`; what has its default and need not be said is left out.
base::Json write_router(const layers::RouterSpec& spec);

}  // namespace coterie::families
