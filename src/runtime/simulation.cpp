#include "runtime/simulation.h"

#include <algorithm>
#include <map>

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
      for (int64_t t = begin; t < answer; t += options_.step_tokens)
        step(t, std::min(t + options_.step_tokens, answer), answer);
      for (int64_t t = answer; t < end; ++t) step(t, t + 1, 0);
    }
    result_.decode = policy_.decode(), result_.prompt = policy_.prompt();
    if (result_.decode.tokens + result_.prompt.tokens == 0)
      base::fail(ErrorKind::bad_input, "simulate", "nothing is left to count behind a warm-up of {} of {} tokens",
                 options_.warm_up, routes_.tokens());
    return result_;
  }

 private:
  /// Tokens begin … end - 1, of a prompt that ends before `answer`; 0: a decoded token.
  void step(int64_t begin, int64_t end, int64_t answer) {
    const bool prompt = answer > 0;
    if (!counting_ && begin >= options_.warm_up) {
      counting_ = true;
      policy_.reset_counts();
      std::fill(result_.layers_missing.begin(), result_.layers_missing.end(), 0);
    }
    for (int64_t layer = 0; layer < routes_.layers; ++layer) {
      std::map<int32_t, ExpertDemand> wanted;  // in the order of the files, as an engine asks
      for (int64_t t = begin; t < end; ++t)
        for (const int16_t expert : routes_.at(t, layer)) {
          if (expert < 0) continue;
          auto [demand, first] = wanted.try_emplace(expert, ExpertDemand{.expert = expert, .tokens = 0});
          ++demand->second.tokens;
          demand->second.warm += prompt && t >= answer - kWarmTokens;
        }
      demands_.clear();
      for (const auto& [expert, demand] : wanted) demands_.push_back(demand);
      const ExpertPolicy::Plan plan = policy_.plan(layer, demands_, end - begin, prompt);
      policy_.release(layer);
      if (!prompt) ++result_.layers_missing[static_cast<size_t>(plan.misses())];
    }
    if (!counting_) policy_.reset_counts();
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
  if (simulation.decode.tokens == 0) return 0;
  const auto k = static_cast<double>(simulation.choices);
  const double layer = speed.compute_seconds / static_cast<double>(simulation.layers);
  double seconds = 0;
  for (size_t m = 0; m < simulation.layers_missing.size(); ++m) {
    const auto missing = static_cast<double>(m);
    const double read = missing * speed.expert_bytes / speed.disk_bytes_per_second;
    // The last to arrive is computed after all has been read; all of them take as long as in memory at least.
    const double one = m == 0 ? layer : std::max(layer, std::max(layer * (k - missing) / k, read) + layer / k);
    seconds += static_cast<double>(simulation.layers_missing[m]) * one;
  }
  return seconds / static_cast<double>(simulation.decode.tokens);
}

double seconds_at_hit_share(double hit_share, int64_t experts_of_token, const StreamSpeed& speed) {
  const double missed = (1 - hit_share) * static_cast<double>(experts_of_token) * speed.expert_bytes;
  return std::max(speed.compute_seconds, missed / speed.disk_bytes_per_second);
}

}  // namespace coterie::runtime
