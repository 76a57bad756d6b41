#pragma once

#include <string_view>

namespace coterie::lens {

/// web/lens.html, as it was when the program was built (cmake/embed.cmake).
std::string_view lens_page();

}  // namespace coterie::lens
