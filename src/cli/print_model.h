#pragma once

#include <string>
#include <vector>

#include "models/spec.h"

namespace coterie::cli {

/// What a model is, in sentences, one a line: layers that are alike are described together.
std::vector<std::string> describe(const models::ModelSpec& spec);

/// "0-3, 5, 7-31"
std::string ranges(const std::vector<int64_t>& ascending);

}  // namespace coterie::cli
