#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "runtime/prefix_cache.h"
#include "serve/cache_budget.h"
#include "serve/mask_worker.h"
#include "serve/prompt_order.h"
#include "serve/routes.h"
#include "serve/scheduler.h"
#include "serve/sequence.h"
#include "serve/step_cost.h"
#include "serve/ticket.h"

namespace coterie::serve {

/// With their bounds, and nothing counted.
Histograms empty_histograms();

/// The scheduler's own thread, step by step: whom it admits, what a step evaluates, what comes of it. Nothing here is
/// used by another thread.
class Runner {
 public:
  Runner(runtime::Engine& engine, const SchedulerOptions& options, const std::atomic<bool>& stopping);
  ~Runner();

  /// A new request, at the end of the queue.
  void take(std::shared_ptr<Ticket> ticket);
  /// Ends who was cancelled, admits, and takes one step. False when there was nothing to do: all are gone, or paused.
  bool work();
  /// Ends all, running and queued, as cancelled.
  void cancel_all();

  const StepCost& cost() const { return cost_; }
  const CacheBudget& budget() const { return budget_; }
  /// Whether requests have ended since it was last asked.
  bool has_ended() { return std::exchange(has_ended_, false); }
  int64_t running() const { return std::ssize(running_); }
  /// Answers take so long on average, from admission on; 0 before the first.
  double answer_seconds() const { return answer_seconds_; }
  /// What has been counted goes to `snapshot`; what is known of requests does not.
  void report(Snapshot& snapshot) const;
  /// Seconds since the clock's epoch at which the step under way began, 0 between steps, and what it should take. May
  /// be read by any thread.
  std::atomic<double> step_began = 0, step_expected = 0;
  static double now();

 private:
  struct Part {
    Sequence* sequence;
    int64_t count;
    bool reading;
  };

  void end_cancelled();
  void tell_places();
  bool admit(size_t waiting);
  bool reads_beside(const Sequence& sequence, const std::vector<Part>& parts) const;
  std::vector<Part> compose();
  void add_prompts(std::vector<Part>& parts, int64_t budget);
  void draft(std::vector<Part>& parts);
  bool make_room(Sequence& sequence, int64_t count);
  /// Evaluates the parts of sequences that get logits, or of those that get hidden states.
  void step(std::vector<Part>& parts, bool hidden);
  void take_logits(std::vector<Part>& parts, const std::vector<char>& left, tensor::Matrix logits,
                   const Sequence::StepReads& reads);
  /// Bytes of experts that have been read from the disk so far; -1 where all are in memory.
  int64_t disk_bytes() const;
  void retire();
  int64_t pages_free() const;
  /// The key of the root under which others may have computed a part of its prompt; none where it does not look.
  std::optional<std::string> shared_key(const Ticket& ticket) const;
  int64_t uncached(const Ticket& ticket) const;

  runtime::Engine& engine_;
  SchedulerOptions options_;
  const std::atomic<bool>& stopping_;
  SequenceRules rules_;
  CacheBudget budget_;
  runtime::PrefixCache tree_;
  RouteRecorder recorder_;
  std::vector<float> model_weights_;  // of an ensemble: of each row of the step's logits, [rows, N]
  int64_t models_ = 0;                // N
  std::shared_ptr<const void> listens_to_gate_;
  MaskWorker masks_;
  StepCost cost_;
  PromptOrder order_;
  std::vector<std::shared_ptr<Ticket>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  bool has_ended_ = false;
  int64_t least_refused_ = INT64_MAX;  // pages that were too many, since the last sequence ended
  mutable int64_t evictable_ = 0;
  mutable base::Stopwatch memory_age_, places_age_;
  mutable double places_took_ = 0;
  mutable std::vector<std::vector<uint8_t>> places_;
  int64_t decode_steps_left_ = 0;  // before the next piece of a prompt
  double answer_seconds_ = 0, decode_rate_ = 0;
  Counters counters_;
  Histograms histograms_;
};

}  // namespace coterie::serve
