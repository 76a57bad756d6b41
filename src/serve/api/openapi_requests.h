#pragma once

#include <string>
#include <utility>

#include "base/json.h"

namespace coterie::serve {

/// An array of what the schema describes, and whatever has that name among the components' schemas.
inline base::Json list_of(base::Json schema) { return {{"type", "array"}, {"items", std::move(schema)}}; }
inline base::Json reference(const char* name) { return {{"$ref", std::string("#/components/schemas/") + name}}; }

/// The schemas of all bodies of requests, by their names in /openapi.json. A test compares their properties with the
/// fields that the handlers read (FieldWatch); fields that are known and refused are not in them.
base::Json openapi_requests();

}  // namespace coterie::serve
