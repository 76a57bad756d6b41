#pragma once

#include <cstdint>
#include <string>

namespace coterie::cli {

/// 46702792704 → "46,702,792,704".
std::string grouped(int64_t number);
/// 46702792704 → "46.7B", as the field abbreviates parameters.
std::string abbreviated(int64_t number);
/// 0.1234 → "12.3 %".
std::string percent(double share);

}  // namespace coterie::cli
