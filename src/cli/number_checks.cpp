#include "cli/number_checks.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string>
#include <utility>

namespace coterie::cli {

namespace {

/// A number for which `fits` holds, of which `expected` says what it is.
template <typename Fits>
CLI::Validator finite_number(std::string expected, Fits fits) {
  return CLI::Validator(
      [expected = std::move(expected), fits](std::string& text) {
        double value = 0;
        const char* const end = text.data() + text.size();
        const auto [rest, error] = std::from_chars(text.data(), end, value);
        if (error == std::errc() && rest == end && std::isfinite(value) && fits(value)) return std::string();
        return fmt::format("is {}, expected {}", text, expected);
      },
      "");
}

}  // namespace

CLI::Validator number_from_zero() {
  return finite_number("a number of at least 0", [](double value) { return value >= 0; });
}
CLI::Validator number_above_zero() {
  return finite_number("a number above 0", [](double value) { return value > 0; });
}
CLI::Validator number_between(double least, double most) {
  return finite_number(fmt::format("a number from {} to {}", least, most),
                       [=](double value) { return value >= least && value <= most; });
}

}  // namespace coterie::cli
