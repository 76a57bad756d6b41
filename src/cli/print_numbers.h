#pragma once

#include <cstdint>
#include <string>

namespace coterie::cli {

/// 46702792704 → "46,702,792,704".
std::string grouped(int64_t number);
/// 46702792704 → "46.7B", as the field abbreviates parameters.
std::string abbreviated(int64_t number);
/// 0.1234 → "12.3 %"; 0.0000224 → "0.002 %".
std::string percent(double share);
/// 1000000 → "1,000,000"; 0.5 → "0.5".
std::string plain(double number);

}  // namespace coterie::cli
