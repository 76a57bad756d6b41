#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "lens/routes.h"
#include "runtime/engine.h"
#include "runtime/machine.h"

namespace coterie::runtime {

struct BenchOptions {
  int64_t prompt = 512;   // tokens of each sequence that are evaluated at once; 0 = no such measurement
  int64_t generate = 32;  // tokens of each sequence that are decoded one by one; 0 = no such measurement
  int64_t depth = 0;      // tokens already in each cache before either
  int64_t batch = 1;      // sequences side by side
  int64_t repeat = 3;     // the median counts
  uint64_t seed = 1;      // of the token ids
  // Steps that verify drafts of 1 to so many tokens of each sequence; 0 = no such measurement. Of these tokens each is
  // accepted as often as `acceptance` says, where those before it were.
  int64_t drafted = 0;
  double acceptance = 0.8;
  // Where tokens go instead of where the routers send them (lens/route_feed.h), one after the other through all rounds
  // and, of several sequences, each from a place of its own; null: as the routers say. It must last as long as the
  // call.
  const lens::Routes* routes = nullptr;
  // With them: how often a simulated look-ahead guesses an expert (lens::RouteFeed); 0: never.
  double recall = 0;
  std::function<void(std::string_view)> on_progress;
  std::function<void(double seconds)> on_long;  // called once where the prompts will take more than a minute
};

/// Tokens a second of the slowest and of the fastest round.
struct Spread {
  double least = 0, most = 0;
};

/// What verifying drafts of `drafted` tokens comes to; making them costs besides.
struct SpeculatedDecode {
  int64_t drafted = 0;
  double step_seconds = 0;       // median, states copied and gone back to
  double tokens_per_second = 0;  // of all sequences together, at BenchOptions::acceptance
  /// Times the tokens a second of a step that drafts nothing and takes `plain` seconds, where drafted tokens are
  /// accepted in `acceptance` of all cases: (1 + a + … + a^n) · plain / step_seconds.
  double gain(double acceptance, double plain) const;
};

struct BenchResult {
  double prefill_seconds = 0, decode_seconds = 0;  // medians
  double prefill_tokens_per_second = 0;            // of all sequences together; 0 when not measured
  double decode_tokens_per_second = 0;
  Spread prefill_spread, decode_spread;
  std::vector<SpeculatedDecode> speculated;  // drafts of 1, 2, … tokens
  double plain_step_seconds = 0;             // median of a decode step without drafts
  int64_t draft_states = 0;                  // bytes of copies of recurrent states for drafted tokens, at most
  int64_t weight_bytes_per_step = 0;         // a decode step read, experts counted as they were routed to
  int64_t cache_bytes_per_step = 0;          // and of the caches, at their mean length
  double bytes_per_token = 0;                // both, divided by the sequences that shared the step
  double flops_per_token = 0;  // in prefill: two for each active weight of a matmul, and attention's; the head's
                               // for the last token of a sequence alone, whose logits are asked for
  Engine::Products products = Engine::Products::f32;  // what most of them are
  int64_t peak_resident_bytes = 0;                    // of the process, at the end
};

/// The share of the machine's read bandwidth in decode, of its multiply-add rate in the run's precision in prefill; 0
/// where the machine was not measured.
double bandwidth_share(const BenchResult& result, const MachineLimits& machine);
double flops_share(const BenchResult& result, const MachineLimits& machine);

/// Refuses, before anything is evaluated, counts below zero and sequences longer than the context.
/// One round of both runs first, unmeasured: pages come in, scratch grows.
BenchResult bench(Engine& engine, const BenchOptions& options);

}  // namespace coterie::runtime
