#pragma once

#include <string_view>

namespace coterie::serve {

/// web/page/page.html, as it was when the program was built (cmake/embed.cmake).
std::string_view page();

}  // namespace coterie::serve
