#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace coterie::base {

/// "token" for 1, else "tokens": the word alone, for numbers that are written another way (grouped digits).
inline std::string noun(int64_t count, std::string_view one, std::string_view many = {}) {
  if (count == 1) return std::string(one);
  return many.empty() ? std::string(one) + "s" : std::string(many);
}

/// "1 token", "0 tokens", "2 matrices": every count that a user reads is said by this.
inline std::string plural(int64_t count, std::string_view one, std::string_view many = {}) {
  return fmt::format("{} {}", count, noun(count, one, many));
}

}  // namespace coterie::base
