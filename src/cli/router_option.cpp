#include "cli/router_option.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace coterie::cli {

namespace {

std::vector<std::string_view> split(std::string_view text, char mark) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(mark, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

[[noreturn]] void refuse(std::string_view rule, const std::string& why) {
  throw base::Error(
      base::ErrorKind::bad_input, "--router", fmt::format("\"{}\" {}", rule, why),
      "rules are sample:T, noise, jitter[:E] and capacity[:F[:position|:probability][:next-best]], separated "
      "by commas; --router sample:1 draws experts in proportion to the router's probabilities");
}

float number(std::string_view rule, std::string_view text, const std::string& needs) {
  float value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0) || !std::isfinite(value))
    refuse(rule, "is not " + needs);
  return value;
}

}  // namespace

void read_router_option(const std::string& text, families::OpenOptions& options) {
  for (const std::string_view rule : split(text, ',')) {
    const std::vector<std::string_view> parts = split(rule, ':');
    if (parts[0] == "sample" && parts.size() == 2) {
      options.router_sample = number(rule, parts[1], "sample:T with a temperature T above 0");
    } else if (rule == "noise") {
      options.router_noise = true;
    } else if (parts[0] == "jitter" && parts.size() <= 2) {
      options.router_jitter = parts.size() == 1 ? 0 : number(rule, parts[1], "jitter:E with E above 0 and below 1");
    } else if (parts[0] == "capacity") {
      options.router_capacity = true;
      if (parts.size() == 1) continue;
      layers::RouterSpec::Capacity& limit = options.router_limit.emplace();
      limit.factor = static_cast<double>(number(rule, parts[1], "capacity:F with a factor F above 0"));
      for (size_t i = 2; i < parts.size(); ++i) {
        if (parts[i] == "probability")
          limit.order = layers::RouterSpec::Capacity::Order::probability;
        else if (parts[i] == "next-best")
          limit.next_best = true;
        else if (parts[i] != "position")
          refuse(rule, fmt::format("has \"{}\" where position, probability or next-best is expected", parts[i]));
      }
    } else {
      refuse(rule, "is not a rule: expected sample:T, noise, jitter or capacity");
    }
  }
}

}  // namespace coterie::cli
