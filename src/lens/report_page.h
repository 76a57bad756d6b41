#pragma once

#include <string_view>

namespace coterie::lens {

/// web/report.html, as it was when the program was built (cmake/embed.cmake).
std::string_view report_page();

}  // namespace coterie::lens
