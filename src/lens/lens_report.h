#pragma once

#include <string>

#include "base/json.h"

namespace coterie::lens {

/// One page of HTML that needs nothing else, over what study() gives: every figure with its table, dark and light.
std::string lens_report(const base::Json& study);

/// The gist for a terminal: by layer what the choice of experts tells of each class, loads, and who is never used.
std::string describe(const base::Json& study);

}  // namespace coterie::lens
