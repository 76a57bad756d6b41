#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/spec.h"
#include "runtime/engine.h"
#include "runtime/speculation/speculator.h"
#include "serve/request.h"
#include "serve/snapshot.h"

namespace coterie::serve {

struct SchedulerOptions {
  double stall_seconds = 0.5;   // a step that reads prompts while anyone decodes takes at most so long
  int64_t parallel = 16;        // sequences that run at once
  int64_t max_queue = 64;       // requests that wait
  double max_wait_seconds = 0;  // estimated; 0: any
  double ageing_seconds = 30;   // waiting so long is worth one level of priority
  bool prefix_cache = true;
  bool keep_routes = true;  // the experts of each position are kept beside its page, so that requests may ask
  // A folder in which prefixes are kept for the next process; empty: none. `fingerprint`: all of the engine that a bit
  // of an answer depends on. See runtime/page_store.h.
  std::string cache_dir = {}, fingerprint = {};
  int64_t cache_dir_bytes = int64_t{32} << 30;
  int64_t cache_memory = 0;  // as given to engine_options(): of pages, states, routes and the tree
  // Makes what drafts tokens of one sequence, all with the same costs; null: nothing is drafted. The scheduler's thread
  // calls it.
  std::function<std::unique_ptr<runtime::Speculator>()> speculator = {};
};

/// Options of an engine whose caches, with what the scheduler keeps beside them, stay within
/// `scheduler.cache_memory` bytes (0: a quarter of what is available now; the field is set to it). Throws out_of_memory
/// where not even one sequence of 256 tokens fits.
runtime::EngineOptions engine_options(const models::ModelSpec& spec, runtime::EngineOptions options,
                                      SchedulerOptions& scheduler);

struct Submission {
  Request request;
  std::shared_ptr<Listener> listener;
};

/// Runs the requests of a server on one engine: who is admitted, what each step evaluates, what is kept. It owns the
/// one thread that touches the engine; its functions may be called from any thread and never wait for a step.
///
/// A request's answer (tokens, logprobs, experts) depends on the request alone, to the bit: not on whoever else is
/// running, how prompts are cut, what the cache holds, nor on cancellations. (Exempt: models whose routers look across
/// a batch, which the constructor refuses.)
class Scheduler {
 public:
  /// Begins to run. `engine` must outlive it and be used by nobody else meanwhile. Throws bad_input for options outside
  /// their ranges, and unsupported for a model whose answers depend on their company (an expert capacity).
  Scheduler(runtime::Engine& engine, const SchedulerOptions& options);
  /// Cancels what is left, between two layers, and waits until the thread has ended.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Takes a request. Throws, before anything is queued: base::Error bad_input for a request that is wrong (empty
  /// prompt, ids outside the vocabulary, no room in the context, options outside their ranges), out_of_memory with the
  /// figure for one that could never fit in the cache, unsupported for what the model cannot give; Refused for the
  /// limits of the queue.
  RequestId submit(Request request, std::shared_ptr<Listener> listener);
  /// All of them or none.
  std::vector<RequestId> submit(std::vector<Submission> requests);
  /// Ends a request, queued or running, within a layer's time; its Finished says cancelled. Unknown ids and those that
  /// have ended are ignored.
  void cancel(RequestId id);
  /// Its sequence leaves the batch, and keeps its pages, until resume(): for readers that are slower than the model.
  void pause(RequestId id);
  void resume(RequestId id);

  /// Takes no more requests, and returns at once; those that are queued or running go on to their ends. idle() tells.
  void drain();
  /// Whether nothing is queued or running.
  bool idle() const;

  /// How things stand. Never waits for the engine's thread.
  Snapshot snapshot() const;
  const SchedulerOptions& options() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace coterie::serve
