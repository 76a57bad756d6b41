#include "cli/experts_used.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "cli/terminal.h"
#include "families/ensemble/ensemble_decoder.h"

namespace coterie::cli {

namespace {

constexpr std::string_view kBars[] = {"·", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

// Bars of each expert's share of the routed tokens; an expert without any is a dot.
std::string bars(const lens::RouterLoad& load) {
  const double most = *std::max_element(load.assignments.begin(), load.assignments.end());
  std::string line;
  for (const double tokens : load.assignments)
    line += kBars[tokens > 0 ? 1 + static_cast<size_t>(7 * tokens / most + 0.5) : 0];
  return line;
}

std::string most_used(const lens::RouterLoad& load) {
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

CLI::Option* add_experts(CLI::App& app, std::string& how) {
  return app
      .add_flag("--experts{end}", how,
                "Which experts the tokens went to, layer by layer, at the end; --experts=live: also token by token, "
                "each with the first expert of every layer, and with the model of an ensemble that weighed most")
      ->check(CLI::IsMember({"end", "live"}));
}

bool is_gated(const runtime::Engine& engine) {
  return dynamic_cast<const families::EnsembleDecoder*>(engine.model().decoder.get()) != nullptr;
}

std::optional<LiveExperts> live_experts(const std::string& how, runtime::Engine& engine) {
  if (how != "live") return {};
  if (!is_gated(engine)) (void)experts_listener(engine);  // refuses a model without routers
  const text::Tokenizer* tokenizer = &engine.tokenizer();
  return LiveExperts(engine, terminal_columns(), [tokenizer](int32_t id) { return tokenizer->decode({{id}}, false); });
}

bool has_routers(const runtime::Engine& engine) {
  const auto& blocks = engine.spec().blocks;
  return std::any_of(blocks.begin(), blocks.end(),
                     [](const models::BlockSpec& block) { return std::holds_alternative<layers::MoeSpec>(block.ffn); });
}

lens::RouterLoads experts_listener(const runtime::Engine& engine) {
  const models::ModelSpec& spec = engine.spec();
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) return lens::RouterLoads(moe->router.score);
  if (is_gated(engine))
    base::fail(base::ErrorKind::bad_input, "--experts", "none of the models of {} has routers", engine.model().name);
  base::fail(base::ErrorKind::bad_input, "--experts", "{}: a {} model has no routers", engine.model().name,
             spec.family.shown());
}

std::string describe_experts(const lens::RouterLoads& loads, std::span<const runtime::Engines::Part> parts) {
  std::string text;
  for (const runtime::Engines::Part& part : parts) {
    const auto begin = loads.layers().lower_bound(part.first), end = loads.layers().lower_bound(part.end);
    if (begin == end) continue;
    const lens::RouterLoad& first = begin->second;
    const auto width = first.assignments.size();
    const std::string whose = part.model.empty() ? "" : part.model + ": ";
    text += fmt::format("\n{}\n", styled(fmt::format("{}{}xperts used by {:.0f} tokens", whose,
                                                     whose.empty() ? "E" : "e", first.tokens),
                                         Style::bold));
    text += fmt::format("{:>5}  {:<{}}  {}\n", "layer", fmt::format("experts 0 to {}", width - 1),
                        std::max<size_t>(width, 16), "used most, by share of the tokens");
    for (auto at = begin; at != end; ++at) {
      const lens::RouterLoad& load = at->second;
      const std::string padding(width < 16 ? 16 - width : 0, ' ');
      text += fmt::format("{:>5}  {}{}{}", at->first - part.first, bars(load), padding, most_used(load));
      text += load.dead() > 0 ? fmt::format("   {} never\n", load.dead()) : std::string("\n");
    }
  }
  return text;
}

base::Json experts_as_json(const lens::RouterLoads& loads, std::span<const runtime::Engines::Part> parts) {
  base::Json layers = base::Json::array();
  for (const runtime::Engines::Part& part : parts)
    for (auto at = loads.layers().lower_bound(part.first); at != loads.layers().lower_bound(part.end); ++at) {
      const lens::RouterLoad& load = at->second;
      std::vector<double> shares;
      for (const double tokens : load.assignments) shares.push_back(load.tokens > 0 ? tokens / load.tokens : 0);
      base::Json layer = {{"layer", at->first - part.first}, {"tokens", load.tokens}, {"shares", shares}};
      if (!part.model.empty()) layer["model"] = part.model;
      layers.push_back(std::move(layer));
    }
  return layers;
}

}  // namespace coterie::cli
