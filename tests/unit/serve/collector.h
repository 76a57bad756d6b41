#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "runtime/engine.h"
#include "serve/scheduler.h"

namespace coterie::serve::test {

/// Tokens of the tiny models' vocabulary.
inline std::vector<TokenId> ids_of(int64_t length, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<TokenId> ids(static_cast<size_t>(length));
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.below(60));
  return ids;
}

/// The most probable tokens after `prompt`, so many of them whatever they are.
inline Request greedy(std::vector<TokenId> prompt, int64_t tokens = 4) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = tokens;
  request.sampler.temperature = 0;
  request.ignore_end = true;
  return request;
}

/// What came of a request.
struct Answer {
  std::vector<TokenId> ids;
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> top;
  std::string text;
  std::optional<PromptScored> scored;
  std::optional<Finished> finished;
  std::optional<RequestFailed> failed;
  std::vector<PromptProgress> progress;
  std::vector<RoutesKnown> routes;
  std::vector<std::vector<float>> model_weights;  // of each token
  std::optional<Queued> queued;
  int64_t after_end = 0;  // events that came after the last

  bool ended() const { return finished || failed; }
};

/// Listens to one request.
class Collector final : public Listener {
 public:
  void on_event(RequestId, Event&& event) noexcept override {
    {
      std::lock_guard lock(mutex_);
      if (answer_.ended()) ++answer_.after_end;
      std::visit([&](auto&& e) { take(std::move(e)); }, std::move(event));
    }
    changed_.notify_all();
  }
  /// Waits until it has ended; for at most 20 seconds.
  Answer wait() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return answer_.ended(); });
    return answer_;
  }
  /// Until so many tokens have come.
  void wait_for_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return answer_.ids.size() >= count || answer_.ended(); });
  }
  Answer now() {
    std::lock_guard lock(mutex_);
    return answer_;
  }

 private:
  void take(Queued&& e) { answer_.queued = e; }
  void take(PromptProgress&& e) { answer_.progress.push_back(e); }
  void take(RoutesKnown&& e) { answer_.routes.push_back(std::move(e)); }
  void take(PromptScored&& e) { answer_.scored = std::move(e); }
  void take(TokenChosen&& e) {
    answer_.ids.push_back(e.id);
    answer_.logprobs.push_back(e.logprob);
    answer_.top.push_back(std::move(e.top));
    answer_.model_weights.push_back(std::move(e.model_weights));
    answer_.text += e.text;
  }
  void take(Finished&& e) {
    answer_.text += e.text;
    answer_.finished = std::move(e);
  }
  void take(RequestFailed&& e) { answer_.failed = std::move(e); }

  std::mutex mutex_;
  std::condition_variable changed_;
  Answer answer_;
};

/// An engine and its scheduler, for models of a few kilobytes.
struct Served {
  explicit Served(families::Model model, SchedulerOptions options = {}, runtime::EngineOptions engine_options = {}) {
    if (options.cache_memory == 0) options.cache_memory = 8 << 20;
    if (engine_options.threads == 0) engine_options.threads = 1;  // others want the processor too
    engine = std::make_unique<runtime::Engine>(std::move(model),
                                               serve::engine_options(model.decoder->spec(), engine_options, options));
    scheduler = std::make_unique<Scheduler>(*engine, options);
  }
  std::pair<RequestId, std::shared_ptr<Collector>> submit(Request request) {
    auto collector = std::make_shared<Collector>();
    const RequestId id = scheduler->submit(std::move(request), collector);
    return {id, collector};
  }
  /// Once everything that was submitted has ended and been counted; after a minute, as it is then.
  Snapshot settled() const {
    Snapshot now = scheduler->snapshot();
    const auto ended = [&] {
      const Counters& c = now.counters;
      return c.finished_end + c.finished_stop + c.finished_length + c.cancelled + c.failed == c.submitted;
    };
    for (int i = 0; i < 60000 && !ended(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      now = scheduler->snapshot();
    }
    return now;
  }
  Answer run(Request request) { return submit(std::move(request)).second->wait(); }

  std::unique_ptr<runtime::Engine> engine;
  std::unique_ptr<Scheduler> scheduler;
};

}  // namespace coterie::serve::test
