#include "runtime/simulation.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "base/error.h"

namespace coterie::runtime {

namespace {

using base::ErrorKind;

class Walk {
 public:
  Walk(const lens::Routes& routes, const SimulationOptions& options)
      : routes_(routes),
        options_(options),
        policy_({.layers = routes.layers,
                 .experts = routes.experts,
                 .size_class = std::vector<int32_t>(static_cast<size_t>(routes.layers * routes.experts), 0),
                 .slots = {options.slots}}) {
    result_.slots = options.slots, result_.layers = routes.layers, result_.choices = routes.choices;
    result_.layers_missing.assign(static_cast<size_t>(routes.choices + 1), 0);
  }

  Simulation run() {
    for (int64_t s = 0; s < routes_.sequences(); ++s) {
      const int64_t begin = routes_.sequence_begin[static_cast<size_t>(s)],
                    end = routes_.sequence_begin[static_cast<size_t>(s) + 1];
      const int64_t said = routes_.prompt[static_cast<size_t>(s)];
      const int64_t answer = begin + std::min(options_.prompt < 0 ? said : options_.prompt, end - begin);
      const int64_t most = std::max(options_.step_tokens, options_.prompt_tokens);
      for (int64_t t = begin; t < answer; t += most) step(t, std::min(t + most, answer), answer);
      for (int64_t t = answer; t < end; ++t) step(t, t + 1, t + 1);
    }
    result_.decode = policy_.decode(), result_.prompt = policy_.prompt();
    if (result_.decode.tokens + result_.prompt.tokens == 0)
      base::fail(ErrorKind::bad_input, "simulate", "nothing is left to count behind a warm-up of {} of {} tokens",
                 options_.warm_up, routes_.tokens());
    return result_;
  }

 private:
  /// Tokens begin … end - 1, of a prompt that ends before `answer`, or a decoded one.
  void step(int64_t begin, int64_t end, int64_t answer) {
    const bool prompt = end - begin >= kPromptTokens;
    if (!counting_ && begin >= options_.warm_up) {
      counting_ = true;
      policy_.reset_counts();
      std::fill(result_.layers_missing.begin(), result_.layers_missing.end(), 0);
    }
    using Pieces = ExpertPolicy::Pieces;
    for (int64_t layer = 0; layer < routes_.layers; ++layer)
      for (int64_t from = begin; from < end; from += options_.step_tokens) {
        const Pieces pieces = end - begin <= options_.step_tokens ? Pieces::one
                              : from == begin                     ? Pieces::first
                                                                  : Pieces::next;
        demand(layer, from, std::min(from + options_.step_tokens, end),
               prompt && end == answer ? answer - kWarmTokens : end);
        const ExpertPolicy::Plan plan = policy_.plan(layer, demands_, end - begin, prompt, pieces);
        policy_.release(layer);
        if (end - begin == 1) ++result_.layers_missing[static_cast<size_t>(plan.misses())];
      }
    if (!counting_) policy_.reset_counts();
  }
  /// What tokens begin … end - 1, warm from `warm` on, ask a layer for: in the order of the files, as an engine asks.
  void demand(int64_t layer, int64_t begin, int64_t end, int64_t warm) {
    std::map<int32_t, ExpertDemand> wanted;
    for (int64_t t = begin; t < end; ++t)
      for (const int16_t expert : routes_.at(t, layer)) {
        if (expert < 0) continue;
        auto [found, first] = wanted.try_emplace(expert, ExpertDemand{.expert = expert, .tokens = 0});
        ++found->second.tokens;
        found->second.warm += t >= warm;
      }
    demands_.clear();
    for (const auto& [expert, asked] : wanted) demands_.push_back(asked);
  }

  const lens::Routes& routes_;
  const SimulationOptions& options_;
  ExpertPolicy policy_;
  std::vector<ExpertDemand> demands_;
  Simulation result_;
  bool counting_ = false;
};

}  // namespace

Simulation simulate(const lens::Routes& routes, const SimulationOptions& options) {
  const int64_t least = std::min(2 * routes.choices, routes.experts * routes.layers);
  if (options.slots < least)
    base::fail(ErrorKind::bad_input, "memory",
               "{} slots for experts are too few: a token meets {} in a layer, and two layers' worth must fit, {}",
               options.slots, routes.choices, least);
  if (options.step_tokens < 1) base::fail(ErrorKind::bad_input, "step_tokens", "is {}", options.step_tokens);
  return Walk(routes, options).run();
}

double seconds_per_token(const Simulation& simulation, const StreamSpeed& speed) {
  // Of tokens that were decoded one by one.
  const double tokens = static_cast<double>(std::accumulate(simulation.layers_missing.begin(),
                                                            simulation.layers_missing.end(), int64_t{0})) /
                        static_cast<double>(std::max<int64_t>(simulation.layers, 1));
  if (tokens == 0) return 0;
  const auto k = static_cast<double>(simulation.choices);
  const double layer = speed.compute_seconds / static_cast<double>(simulation.layers);
  double seconds = 0, missed = 0;
  for (size_t m = 0; m < simulation.layers_missing.size(); ++m) {
    const auto missing = static_cast<double>(m);
    const double read = missing * speed.expert_bytes / speed.disk_bytes_per_second;
    // The last to arrive is computed after all has been read; all of them take as long as in memory at least.
    const double one = m == 0 ? layer : std::max(layer, std::max(layer * (k - missing) / k, read) + layer / k);
    seconds += static_cast<double>(simulation.layers_missing[m]) * one;
    missed += static_cast<double>(simulation.layers_missing[m]) * missing;
  }
  const double reading = missed * speed.expert_bytes / speed.disk_bytes_per_second / tokens;
  return (1 - speed.recall) * seconds / tokens + speed.recall * std::max(speed.compute_seconds, reading);
}

double seconds_at_hit_share(double hit_share, int64_t experts_of_token, const StreamSpeed& speed) {
  const double missed = (1 - hit_share) * static_cast<double>(experts_of_token) * speed.expert_bytes;
  return std::max(speed.compute_seconds, missed / speed.disk_bytes_per_second);
}

}  // namespace coterie::runtime
