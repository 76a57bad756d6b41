#include "cli/print_numbers.h"

#include <fmt/format.h>

namespace coterie::cli {

std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  const size_t first = number < 0 ? 1 : 0;
  for (size_t place = digits.size(); place > first + 3;) digits.insert(place -= 3, 1, ',');
  return digits;
}

std::string abbreviated(int64_t number) {
  const double value = static_cast<double>(number);
  if (number >= 1'000'000'000'000) return fmt::format("{:.2f}T", value / 1e12);
  if (number >= 1'000'000'000) return fmt::format("{:.1f}B", value / 1e9);
  if (number >= 1'000'000) return fmt::format("{:.1f}M", value / 1e6);
  if (number >= 1'000) return fmt::format("{:.1f}K", value / 1e3);
  return std::to_string(number);
}

std::string percent(double share) {
  const double value = 100 * share;
  return value > 0 && value < 0.05 ? fmt::format("{:.3f} %", value) : fmt::format("{:.1f} %", value);
}

std::string plain(double number) {
  const auto whole = static_cast<int64_t>(number);
  return static_cast<double>(whole) == number ? grouped(whole) : fmt::format("{:g}", number);
}

}  // namespace coterie::cli
