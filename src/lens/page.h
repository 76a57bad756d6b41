#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace coterie::lens {

/// The page with the data in the place that it keeps for them, /*DATA*/, inside of a script element.
std::string fill_page(std::string_view page, const base::Json& data);

}  // namespace coterie::lens
