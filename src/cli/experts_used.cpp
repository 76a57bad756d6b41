#include "cli/experts_used.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "cli/terminal.h"

namespace coterie::cli {

namespace {

constexpr std::string_view kBars[] = {"·", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

// Of the tokens that were routed; an expert without any is a dot.
std::string bars(const layers::RouterLoad& load) {
  const double most = *std::max_element(load.assignments.begin(), load.assignments.end());
  std::string line;
  for (const double tokens : load.assignments)
    line += kBars[tokens > 0 ? 1 + static_cast<size_t>(7 * tokens / most + 0.5) : 0];
  return line;
}

std::string most_used(const layers::RouterLoad& load) {
  std::vector<size_t> order(load.assignments.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return load.assignments[a] > load.assignments[b]; });
  std::string list;
  for (size_t i = 0; i < std::min<size_t>(order.size(), 4); ++i)
    list += fmt::format("{:>4}{:>5.0f} %", order[i], 100 * load.assignments[order[i]] / load.tokens);
  return list;
}

}  // namespace

layers::RouterLoads experts_listener(const models::ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) return layers::RouterLoads(moe->router.score);
  base::fail(base::ErrorKind::bad_input, "--experts", "a {} model has no routers", spec.family);
}

std::string describe_experts(const layers::RouterLoads& loads) {
  if (loads.layers().empty()) return "";
  const layers::RouterLoad& first = loads.layers().begin()->second;
  const auto width = first.assignments.size();
  std::string text =
      fmt::format("\n{}\n", styled(fmt::format("Experts used by {:.0f} tokens", first.tokens), Style::bold));
  text += fmt::format("{:>5}  {:<{}}  {}\n", "layer", fmt::format("experts 0 to {}", width - 1),
                      std::max<size_t>(width, 16), "used most, by share of the tokens");
  for (const auto& [layer, load] : loads.layers()) {
    const std::string padding(width < 16 ? 16 - width : 0, ' ');
    text += fmt::format("{:>5}  {}{}{}", layer, bars(load), padding, most_used(load));
    text += load.dead() > 0 ? fmt::format("   {} never\n", load.dead()) : std::string("\n");
  }
  return text;
}

base::Json experts_as_json(const layers::RouterLoads& loads) {
  base::Json layers = base::Json::array();
  for (const auto& [layer, load] : loads.layers()) {
    std::vector<double> shares;
    for (const double tokens : load.assignments) shares.push_back(load.tokens > 0 ? tokens / load.tokens : 0);
    layers.push_back({{"layer", layer}, {"tokens", load.tokens}, {"shares", shares}});
  }
  return layers;
}

}  // namespace coterie::cli
