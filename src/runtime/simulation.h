#pragma once

#include <cstdint>
#include <vector>

#include "lens/routes.h"
#include "runtime/expert_policy.h"

namespace coterie::runtime {

struct SimulationOptions {
  int64_t slots = 0;          // for experts, of all layers
  int64_t warm_up = 0;        // tokens that are not counted: slots are empty at first
  int64_t prompt = -1;        // of each sequence's tokens, so many are read as a prompt; -1: as the routes say
  int64_t step_tokens = 512;  // of a prompt that a layer reads at once
  // Of a prompt that a layer reads, step_tokens at a time, before the next layer begins (Engine::prompt_tokens); fewer
  // than step_tokens: as many.
  int64_t prompt_tokens = 0;
};

/// What a policy would have read of a file, had its model been routed so.
struct Simulation {
  int64_t slots = 0;
  ExpertPolicy::Counts decode, prompt;  // behind the warm-up
  // Of the layers that a decoded token went through: how many had 0, 1, … of their experts missing.
  std::vector<int64_t> layers_missing;
  int64_t layers = 0, choices = 0;

  double missed_per_token() const {
    return decode.tokens == 0 ? 0 : static_cast<double>(decode.misses) / static_cast<double>(decode.tokens);
  }
};

/// Walks the routes with the policy of the engine: decoded tokens one by one, prompts in steps, of which one of fewer
/// than kPromptTokens counts as decoding, as it does there. Hits and misses are those of an engine with so many slots
/// that evaluates one sequence after the other (a law: tests/unit/expert_store). Throws bad_input for
/// fewer slots than two layers' worth of a token's experts, which no engine runs with, or when nothing is left to
/// count.
Simulation simulate(const lens::Routes& routes, const SimulationOptions& options);

/// What an expert costs to read, and a token to compute.
struct StreamSpeed {
  double expert_bytes = 0;
  double disk_bytes_per_second = 0;
  double compute_seconds = 0;  // of a token when all is in memory; 0: nothing, so that the disk alone decides
  double recall = 0;           // of the experts that a layer asks for, the share that looking ahead guesses; 0: none
};

/// Of a decoded token. In each layer the experts that are there are computed while the others are read, and the last of
/// those after it has arrived: Σ max(compute of hits, read of misses) + compute of one. What is guessed is read while
/// something else is computed, so that of a token the share `recall` takes as long as all its arithmetic or all its
/// reading does; a simulation, in which guesses that were wrong cost nothing.
double seconds_per_token(const Simulation& simulation, const StreamSpeed& speed);
/// The same where a share of all experts hits, spread evenly over the layers: max(compute, missed bytes ÷ rate).
double seconds_at_hit_share(double hit_share, int64_t experts_of_token, const StreamSpeed& speed);

}  // namespace coterie::runtime
