#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "runtime/inspection.h"

namespace coterie::runtime {

/// How a model would run in less memory than it has weights, with its routed experts read from a disk as tokens need
/// them: from its shape, before anything is read.
struct StreamForecast {
  int64_t memory = 0;            // of the process in all
  int64_t others = 0;            // of it, what is not a routed expert: dense weights, cache, scratch, the process
  int64_t experts = 0;           // of all layers
  int64_t expert_bytes = 0;      // of one, on average
  int64_t slot_bytes = 0;        // of all slots
  int64_t experts_of_token = 0;  // in all layers
  int64_t slots = 0;             // for experts, in what is left; at most `experts`
  int64_t least_slots = 0;       // two layers' worth of a token's experts, of each size
  int64_t least_memory = 0;      // of the process, with the fewest slots: the engine refuses less
  int64_t positions = 0;         // of cache that room is left for
  int64_t prompt_tokens = 0;     // of a long prompt that are read layer by layer (StreamPlan)
  double compute_seconds = 0;    // of a token, by the machine's memory

  bool all_fits() const { return slots == experts; }
  bool runs() const { return memory >= least_memory; }

  std::string fitted;           // whose routing the curve is fitted to (lens/fitted_routes.h)
  double fitted_hit_share = 0;  // of a model that routes so; 0 where it does not run
  double fitted_bytes = 0;      // that a token misses then
  double fitted_seconds = 0;    // a token, where a rate is given

  /// At a share of hits, spread evenly.
  double tokens_per_second(double hit_share, double disk_bytes_per_second) const;
};

/// Throws unsupported for a model without routed experts, with the reason.
StreamForecast forecast_stream(const Inspection& model, int64_t memory, double disk_bytes_per_second,
                               double memory_bytes_per_second);

}  // namespace coterie::runtime
