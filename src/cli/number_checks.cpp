#include "cli/number_checks.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string>

namespace coterie::cli {

namespace {

CLI::Validator finite_number(bool zero) {
  return CLI::Validator(
      [zero](std::string& text) {
        double value = 0;
        const char* const end = text.data() + text.size();
        const auto [rest, error] = std::from_chars(text.data(), end, value);
        const bool number = error == std::errc() && rest == end && std::isfinite(value);
        if (number && (value > 0 || (zero && value == 0))) return std::string();
        return fmt::format("is {}, expected a number {} 0", text, zero ? "of at least" : "above");
      },
      "");
}

}  // namespace

CLI::Validator number_from_zero() { return finite_number(true); }
CLI::Validator number_above_zero() { return finite_number(false); }

}  // namespace coterie::cli
