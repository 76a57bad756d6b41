#pragma once

#include "base/json.h"

namespace coterie::serve {

/// The schemas of all bodies of requests, by their names in /openapi.json. A test compares their properties with the
/// fields that the handlers read (FieldWatch); fields that are known and refused are not in them.
base::Json openapi_requests();

}  // namespace coterie::serve
