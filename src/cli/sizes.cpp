#include "cli/sizes.h"

#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/function_ref.h"

namespace coterie::cli {

namespace {

struct Measured {
  double number = 0;
  std::string_view unit;  // what stands behind it
};

Measured measured(std::string_view option, const std::string& text, std::string_view expected) {
  Measured result;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, result.number, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(result.number))
    base::fail(base::ErrorKind::bad_input, option, "\"{}\" is not {}", text, expected);
  result.unit = std::string_view(rest, static_cast<size_t>(end - rest));
  while (result.unit.starts_with(' ')) result.unit.remove_prefix(1);
  return result;
}

double bytes_of(std::string_view option, const std::string& text, std::string_view unit, double number,
                std::string_view expected) {
  if (unit.ends_with("B")) unit.remove_suffix(1);
  double factor = 1;
  const double base = unit.ends_with("i") ? 1024 : 1000;
  if (unit.ends_with("i")) unit.remove_suffix(1);
  constexpr std::string_view kUnits = "KMGT";
  const std::string_view::size_type power =
      unit.size() == 1 ? kUnits.find(unit == "k" ? 'K' : unit.front()) : std::string_view::npos;
  if (power != std::string_view::npos)
    factor = std::pow(base, static_cast<double>(power + 1));
  else if (!unit.empty() || base == 1024)
    base::fail(base::ErrorKind::bad_input, option, "\"{}\" is not {}", text, expected);
  if (number * factor < 1 || number * factor > 1e18)
    base::fail(base::ErrorKind::bad_input, option, "\"{}\" is not {}", text, expected);
  return number * factor;
}

}  // namespace

int64_t bytes_option(std::string_view option, const std::string& text) {
  constexpr std::string_view kExpected = "a number of bytes like 8G, 2.4GB, 900M or 6GiB";
  const Measured found = measured(option, text, kExpected);
  return std::llround(bytes_of(option, text, found.unit, found.number, kExpected));
}

double rate_option(std::string_view option, const std::string& text) {
  constexpr std::string_view kExpected = "a number of bytes a second like 1.1G, 900M or 6.5GB/s";
  Measured found = measured(option, text, kExpected);
  if (found.unit.ends_with("/s")) found.unit.remove_suffix(2);
  return bytes_of(option, text, found.unit, found.number, kExpected);
}

namespace {

std::string problem_of(const base::FunctionRef<void()> read) {
  try {
    read();
  } catch (const base::Error& error) {
    return error.message();
  }
  return {};
}

}  // namespace

std::string size_problem(const std::string& text) {
  return problem_of([&] { bytes_option("", text); });
}

std::string rate_problem(const std::string& text) {
  return problem_of([&] { rate_option("", text); });
}

double share_option(std::string_view option, const std::string& text) {
  constexpr std::string_view kExpected = "a share above 0% and up to 100%, like 40%";
  const Measured found = measured(option, text, kExpected);
  if (found.unit != "%" || found.number <= 0 || found.number > 100)
    base::fail(base::ErrorKind::bad_input, option, "\"{}\" is not {}", text, kExpected);
  return found.number / 100;
}

}  // namespace coterie::cli
