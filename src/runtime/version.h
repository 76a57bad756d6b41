#pragma once

#include <string_view>

namespace coterie::runtime {

/// "0.1.0", from CMake's project().
std::string_view version();

}  // namespace coterie::runtime
