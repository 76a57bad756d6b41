#include "runtime/stream_forecast.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "lens/fitted_routes.h"
#include "runtime/expert_store/stream_plan.h"
#include "runtime/simulation.h"

namespace coterie::runtime {

namespace {

// Of so many layers and tokens the hits are those of all, within a point.
constexpr int64_t kFittedLayers = 12, kFittedTokens = 300;

struct Widest {
  int64_t layers = 0, experts = 0, choices = 0;
};

int64_t sum(const std::vector<int64_t>& of) { return std::accumulate(of.begin(), of.end(), int64_t{0}); }

}  // namespace

double StreamForecast::tokens_per_second(double hit_share, double disk_bytes_per_second) const {
  return 1 / seconds_at_hit_share(hit_share, experts_of_token,
                                  {static_cast<double>(expert_bytes), disk_bytes_per_second, compute_seconds});
}

StreamForecast forecast_stream(const Inspection& model, int64_t memory, double disk_bytes_per_second,
                               double memory_bytes_per_second) {
  StreamForecast result;
  result.memory = memory;
  Widest widest;
  for (const models::BlockSpec& block : model.spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) {
      if (moe->router.experts_per_token == 0)
        base::fail(base::ErrorKind::unsupported, "memory", "every token meets every expert of this model");
      ++widest.layers;
      widest.experts = std::max(widest.experts, moe->experts_with_weights());
      widest.choices = std::max(widest.choices, moe->router.experts_per_token);
      result.experts += moe->experts_with_weights(), result.experts_of_token += moe->router.experts_per_token;
    }
  if (widest.layers == 0)
    throw base::Error(base::ErrorKind::unsupported, "memory",
                      model.name + " has no routed experts: each token reads all of its weights",
                      "a model in fewer bits takes less memory");
  const int64_t experts = model.bytes_held[static_cast<size_t>(models::Place::experts)];
  result.expert_bytes = experts / result.experts;
  base::require(model.stream.has_value(), "stream", "a model that was inspected without memory");
  const Inspection::Stream& stream = *model.stream;
  const std::vector<int64_t> fewest = fewest_slots(stream.classes, model.spec);
  result.others = stream.needs.sum(), result.positions = stream.positions;
  result.least_slots = sum(fewest);
  result.least_memory = result.others + slot_memory(stream.classes, fewest);
  if (result.others + experts <= memory) {
    result.slots = result.experts, result.slot_bytes = experts;
  } else if (result.runs()) {
    const StreamPlan plan = plan_stream(stream.classes, model.spec, {.bytes = memory, .given = true}, stream.needs,
                                        stream.positions, std::min(model.step_tokens, stream.positions));
    result.slots = sum(plan.slots), result.slot_bytes = slot_memory(stream.classes, plan.slots);
    result.prompt_tokens = plan.prompt_tokens;
  }
  if (memory_bytes_per_second > 0)
    result.compute_seconds = static_cast<double>(model.bytes_per_token()) / memory_bytes_per_second;
  if (!result.runs()) return result;

  const lens::FittedRouting& fitted = lens::fitted_for(widest.experts);
  const int64_t layers = std::min(kFittedLayers, widest.layers);
  const lens::Routes routes = lens::fitted_routes(fitted, layers, widest.experts, widest.choices, kFittedTokens, 1);
  const int64_t slots = result.slots * layers * widest.experts / result.experts;
  const Simulation run = simulate(
      routes,
      {.slots = std::max(slots, std::min(2 * widest.choices, layers * widest.experts)), .warm_up = kFittedTokens / 3});
  result.fitted = fitted.name;
  result.fitted_hit_share = result.all_fits() ? 1 : run.decode.hit_share();
  result.fitted_bytes = (1 - result.fitted_hit_share) * static_cast<double>(result.experts_of_token) *
                        static_cast<double>(result.expert_bytes);
  const double of_all = static_cast<double>(widest.layers) / static_cast<double>(layers);
  result.fitted_seconds =
      result.all_fits() ? result.compute_seconds
                        : of_all * seconds_per_token(run, {static_cast<double>(result.expert_bytes),
                                                           disk_bytes_per_second, result.compute_seconds / of_all});
  return result;
}

}  // namespace coterie::runtime
