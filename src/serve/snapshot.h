#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/expert_store/stream_figures.h"
#include "serve/request.h"

// What can be known of a scheduler from outside, as plain data: /slots, /metrics, /health and the page read it.
namespace coterie::serve {

/// Counts of values by upper bounds, Prometheus' way of telling a distribution.
struct Histogram {
  std::vector<double> upper;     // ascending
  std::vector<uint64_t> counts;  // [upper.size() + 1]: of values in (upper[i - 1], upper[i]], the last of larger ones
  double sum = 0;
  uint64_t count = 0;

  void add(double value);
};

enum class RequestState { queued, reading, decoding, paused };
std::string_view name(RequestState state);  // "queued", "reading", "decoding", "paused"

struct RequestSnapshot {
  RequestId id = 0;
  RequestState state = RequestState::queued;
  int64_t prompt_tokens = 0, cached_tokens = 0, evaluated_tokens = 0;  // evaluated: cached ones included
  int64_t generated_tokens = 0, max_tokens = 0;
  int64_t priority = 0;
  double seconds = 0;  // since submission
};

/// Bytes. The parts add up to what is taken of the budget.
struct MemorySnapshot {
  int64_t budget = 0;          // --cache-memory
  int64_t pages_running = 0;   // keys and values that running sequences hold
  int64_t pages_cached = 0;    // that the prefix cache alone holds
  int64_t pages_free = 0;      // allocated, held by nobody
  int64_t states_running = 0;  // recurrent states
  int64_t states_cached = 0;
  int64_t routes = 0;  // the experts of positions whose pages are held
  int64_t nodes = 0;   // of the tree

  int64_t used() const {
    return pages_running + pages_cached + pages_free + states_running + states_cached + routes + nodes;
  }
};

/// Since the start; they only grow.
struct Counters {
  uint64_t submitted = 0, refused_queue = 0, refused_wait = 0, refused_bad = 0;
  uint64_t finished_end = 0, finished_stop = 0, finished_length = 0, cancelled = 0, failed = 0;
  uint64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  uint64_t evaluated_prompt_tokens = 0;              // that went through the model
  uint64_t drafted_tokens = 0, accepted_tokens = 0;  // of answers that have ended
  uint64_t steps = 0, decode_only_steps = 0;
  uint64_t longest_sequence = 0;              // tokens of prompt and answer
  uint64_t cache_hits = 0, cache_misses = 0;  // requests that found some of their prompt; that found none
  uint64_t pages_evicted = 0, states_evicted = 0;
  uint64_t disk_pages_read = 0, disk_pages_written = 0, disk_pages_damaged = 0;  // of the prefix cache
  double busy_seconds = 0;                                                       // in steps
  std::vector<std::vector<uint64_t>> expert_tokens;  // [layers with routers][E]: assignments
};

struct Histograms {
  Histogram first_token_seconds, between_tokens_seconds, queue_seconds, end_to_end_seconds;
  Histogram step_seconds, step_tokens, step_sequences;
  Histogram distinct_experts;  // a step and a layer
  Histogram prompt_tokens, completion_tokens;
};

struct Snapshot {
  std::vector<RequestSnapshot> requests;  // running ones, then those that wait, in order
  int64_t running = 0, waiting = 0, paused = 0;
  MemorySnapshot memory;
  // [layers with routers][E]: in which memory an expert lies, a runtime::Where; as of a second ago at most.
  std::vector<std::vector<uint8_t>> expert_places;
  Counters counters;
  Histograms histograms;
  // The step under way: seconds since it began, 0 between steps, and how long it was expected to take.
  double step_running_seconds = 0, step_expected_seconds = 0;
  double prompt_tokens_per_second = 0, decode_tokens_per_second = 0;  // lately, all sequences together
  // A step of n prompt tokens beside whoever decodes takes about fixed + n * each; 0 before it was measured. The floor:
  // the least stall that a prompt is read with, longer than --stall on a machine that is too slow for it.
  double step_fixed_seconds = 0, step_token_seconds = 0, stall_floor_seconds = 0;
  // Of a model whose experts are read from the disk as they are needed, since its start.
  std::optional<runtime::StreamReport> reads;
  double wait_seconds = 0;                // estimated, for a request that came now
  bool disk_failed = false;               // nothing more is written there: it is full
  bool stopping = false, failed = false;  // failed: the scheduler's thread has ended by an error
};

}  // namespace coterie::serve
