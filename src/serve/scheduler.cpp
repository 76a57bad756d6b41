#include "serve/scheduler.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "runtime/ensemble_parts.h"
#include "serve/runner.h"

namespace coterie::serve {

namespace {

SchedulerOptions checked(const SchedulerOptions& options, const runtime::Engine& engine) {
  const auto want = [](bool good, std::string_view field, double value, std::string_view expected) {
    if (!good) base::fail(base::ErrorKind::bad_input, field, "is {}, expected {}", value, expected);
  };
  want(options.stall_seconds > 0, "serve.stall", options.stall_seconds, "a time above 0");
  want(options.parallel >= 1 && options.parallel <= engine.step_tokens(), "serve.parallel",
       static_cast<double>(options.parallel), fmt::format("1 to {}, the tokens of a step", engine.step_tokens()));
  want(options.max_queue >= 0, "serve.max_queue", static_cast<double>(options.max_queue), "at least 0");
  want(options.max_wait_seconds >= 0, "serve.max_wait", options.max_wait_seconds, "at least 0 (0 = any)");
  want(options.ageing_seconds > 0, "serve.ageing", options.ageing_seconds, "a time above 0");
  base::require(options.cache_memory > 0, "scheduler", "cache_memory is {}: engine_options() sets it",
                options.cache_memory);
  return options;
}

}  // namespace

runtime::EngineOptions engine_options(const models::ModelSpec& spec, runtime::EngineOptions options,
                                      SchedulerOptions& scheduler) {
  if (scheduler.cache_memory < 0)
    base::fail(base::ErrorKind::bad_input, "serve.cache_memory", "is {}, expected at least 0", scheduler.cache_memory);
  if (scheduler.cache_memory == 0)
    scheduler.cache_memory =
        std::min(base::available_memory(), options.memory > 0 ? options.memory : base::available_memory()) / 4;
  const tensor::DType type =
      options.cache_type.value_or(options.precision == ops::Precision::f32 ? tensor::DType::f32 : tensor::DType::f16);
  options.snapshots = CacheBudget::kSnapshots;
  // States lie at the ends of pages, which are what is shared.
  options.snapshot_interval = std::max<int64_t>(options.snapshot_interval / ops::kCacheBlock, 1) * ops::kCacheBlock;
  runtime::CacheShape shape = runtime::cache_shape(spec, type);
  shape.state.interval = options.snapshot_interval, shape.state.drafted = options.drafted;
  const RouteLayout routes(spec);
  const CacheBudget budget =
      cache_budget(shape, routes, scheduler.keep_routes && routes.layers > 0, scheduler.cache_memory);
  options.cache_bytes = budget.page_memory;
  return options;
}

struct Scheduler::Impl {
  Impl(runtime::Engine& its_engine, const SchedulerOptions& its_options)
      : engine(its_engine),
        options(checked(its_options, its_engine)),
        tells_routes(options.keep_routes && RouteLayout(engine.spec()).layers > 0),
        tells_models(runtime::ensemble_parts(engine).count() > 0),
        runner(engine, options, stopping) {
    runner.report(known);
    thread = std::thread([this] { loop(); });
  }
  ~Impl() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_all();
    thread.join();
  }

  std::shared_ptr<Ticket> check(Submission&& submission) const;
  double wait_seconds_locked() const;
  void refuse_locked(int64_t count);
  std::vector<RequestId> submit(std::vector<Submission> requests);
  template <typename Change>
  void change(RequestId id, Change change);
  void loop();
  void finish() noexcept;

  runtime::Engine& engine;
  const SchedulerOptions options;
  const bool tells_routes, tells_models;
  std::atomic<bool> stopping = false;
  Runner runner;  // the thread's own, but for its atomics

  mutable std::mutex mutex;  // never held while anything is computed
  std::condition_variable changed;
  std::map<RequestId, std::shared_ptr<Ticket>> tickets;
  std::vector<std::shared_ptr<Ticket>> inbox;
  bool dirty = false;  // a flag of some ticket has changed
  RequestId last_id = 0;
  bool draining = false, failed = false, gone = false;
  uint64_t submitted = 0, refused_queue = 0, refused_wait = 0, refused_bad = 0;
  double rate = 0, answer_seconds = 0;
  Snapshot known;
  std::thread thread;
};

std::shared_ptr<Ticket> Scheduler::Impl::check(Submission&& submission) const {
  auto ticket = std::make_shared<Ticket>();
  ticket->request = std::move(submission.request);
  ticket->listener = std::move(submission.listener);
  const Request& request = ticket->request;
  base::require(ticket->listener != nullptr, "scheduler", "a request without a listener");
  const int64_t size = std::ssize(request.prompt), context = engine.context_size();
  if (size == 0) base::fail(base::ErrorKind::bad_input, "prompt", "is empty: there is nothing to continue");
  if (request.max_tokens < -1)
    base::fail(base::ErrorKind::bad_input, "max_tokens", "is {}, expected at least 0, or -1 for no limit",
               request.max_tokens);
  engine.check_ids(request.prompt);
  if (size > context || (size == context && request.max_tokens != 0))
    throw base::Error(base::ErrorKind::bad_input, "prompt",
                      fmt::format("has {} tokens, which leaves no room in a context of {}", size, context),
                      "shorten the prompt, or start the server with a larger `serve.context`");
  if (request.logprobs < -1 || request.prompt_logprobs < -1)
    base::fail(base::ErrorKind::bad_input, "logprobs", "are {} and {}, expected at least 0, or -1 for none",
               request.logprobs, request.prompt_logprobs);
  for (const int64_t boundary : request.boundaries)
    if (boundary < 0 || boundary > size)
      base::fail(base::ErrorKind::bad_input, "boundaries", "{} is outside of the prompt's {} tokens", boundary, size);
  if ((request.routed_experts || (request.tells_routes && !tells_models)) && !tells_routes)
    throw base::Error(base::ErrorKind::unsupported, "routed_experts",
                      options.keep_routes ? "the model chooses no experts" : "the experts of tokens are not kept here",
                      options.keep_routes ? "" : "start the server with them");
  if (request.pooling != Request::Pooling::none && request.max_tokens != 0)
    base::fail(base::ErrorKind::bad_input, "max_tokens", "is {}, and an embedding has no answer: expected 0",
               request.max_tokens);
  // Throw what is wrong with them.
  const bool text = engine.model().tokenizer.has_value();
  ticket->sampler.emplace(request.sampler, engine.spec().vocabulary, text ? &engine.tokenizer() : nullptr);
  (void)runtime::StopFilter(request.stop);
  if (!request.stop.empty()) (void)engine.tokenizer();
  if (text) {
    ticket->decoder.emplace(engine.tokenizer(), request.skip_special);
    ticket->decoder->prime(request.prompt);
  }

  const int64_t most_pages = engine.cache().page_bytes() > 0 ? engine.pages()->most_pages() : INT64_MAX;
  const int64_t fits = most_pages > context / ops::kCacheBlock ? context : most_pages * ops::kCacheBlock;
  const int64_t asked = request.max_tokens < 0 ? std::min(context, std::max(fits, size + 1))
                                               : std::min(context, size + request.max_tokens);
  ticket->limit = asked;
  ticket->pages = engine.cache().page_bytes() > 0 ? (asked + ops::kCacheBlock - 1) / ops::kCacheBlock : 0;
  if (asked > fits)
    throw base::Error(base::ErrorKind::out_of_memory, "prompt",
                      fmt::format("{} tokens and {} of an answer need {} of cache, and there are {} in all", size,
                                  asked - size, base::human_bytes(ticket->pages * engine.pages()->page_bytes()),
                                  base::human_bytes(most_pages * engine.pages()->page_bytes())),
                      "ask for fewer tokens, or start the server with more `serve.cache_memory`");
  ticket->remaining = size;
  return ticket;
}

double Scheduler::Impl::wait_seconds_locked() const {
  // What is to be read before a newcomer's prompt, and, where all places are taken, until one is free.
  int64_t tokens = 0, queued = 0, open = 0;
  for (const auto& [id, ticket] : tickets) {
    if (ticket->ended) continue;
    tokens += ticket->remaining;
    (ticket->state == RequestState::queued ? queued : open) += 1;
  }
  double seconds = rate > 0 ? static_cast<double>(tokens) / rate : 0;
  if (open + queued >= options.parallel)
    seconds = std::max(seconds, answer_seconds * static_cast<double>(open + queued + 1 - options.parallel) /
                                    static_cast<double>(options.parallel));
  return seconds;
}

void Scheduler::Impl::refuse_locked(int64_t count) {
  const double wait = wait_seconds_locked();
  if (draining || failed)
    throw Refused(Refused::Reason::shutting_down, 0, failed ? "the engine has failed" : "the server is shutting down");
  int64_t queued = 0, open = 0;
  for (const auto& [id, ticket] : tickets)
    if (!ticket->ended) (ticket->state == RequestState::queued ? queued : open) += 1;
  const int64_t places = options.max_queue + std::max<int64_t>(options.parallel - open, 0);
  if (queued + count > places) {
    refused_queue += static_cast<uint64_t>(count);
    throw Refused(Refused::Reason::queue_full, std::max(wait, 1.0),
                  fmt::format("{} requests wait already, and no more than {} may", queued, options.max_queue));
  }
  if (options.max_wait_seconds > 0 && wait > options.max_wait_seconds) {
    refused_wait += static_cast<uint64_t>(count);
    throw Refused(
        Refused::Reason::wait_too_long, wait - options.max_wait_seconds,
        fmt::format("it would wait for about {:.0f} seconds, and {:.0f} are allowed", wait, options.max_wait_seconds));
  }
}

std::vector<RequestId> Scheduler::Impl::submit(std::vector<Submission> requests) {
  std::vector<std::shared_ptr<Ticket>> fresh;
  std::vector<RequestId> ids;
  std::vector<Queued> places;
  try {
    for (Submission& request : requests) fresh.push_back(check(std::move(request)));
  } catch (...) {
    std::lock_guard lock(mutex);
    refused_bad += requests.size();
    throw;
  }
  {
    std::lock_guard lock(mutex);
    refuse_locked(std::ssize(fresh));
    for (const auto& ticket : fresh) {
      int64_t ahead = 0;
      for (const auto& [id, other] : tickets) ahead += !other->ended && other->state == RequestState::queued ? 1 : 0;
      ticket->ahead = ahead;
      places.push_back({.ahead = ahead, .wait_seconds = wait_seconds_locked()});
      ids.push_back(ticket->id = ++last_id);
      tickets.emplace(ticket->id, ticket);
      ++submitted;
    }
  }
  for (size_t i = 0; i < fresh.size(); ++i) fresh[i]->send(Queued(places[i]));
  {
    std::lock_guard lock(mutex);
    if (!gone) {
      inbox.insert(inbox.end(), fresh.begin(), fresh.end());
      fresh.clear();
    }
  }
  // The thread has ended in the meantime, and nobody else would tell.
  for (const auto& ticket : fresh) ticket->send(Finished{.reason = FinishReason::cancelled});
  changed.notify_all();
  return ids;
}

template <typename Change>
void Scheduler::Impl::change(RequestId id, Change change) {
  {
    std::lock_guard lock(mutex);
    const auto found = tickets.find(id);
    if (found == tickets.end()) return;
    change(*found->second);
    dirty = true;
  }
  changed.notify_all();
}

void Scheduler::Impl::loop() {
  constexpr double kReportSeconds = 0.02;
  constexpr double kMoveSeconds = 0.01;  // a request that comes meanwhile waits for no longer
  base::Stopwatch reported;
  bool busy = false, moving = true;
  try {
    while (true) {
      std::vector<std::shared_ptr<Ticket>> fresh;
      {
        std::unique_lock lock(mutex);
        const auto wanted = [&] { return stopping || busy || dirty || !inbox.empty(); };
        // Whoever asks first shall find the weights where the kernels read them fastest.
        while (moving && !wanted()) {
          lock.unlock();
          moving = engine.move_weights(kMoveSeconds);
          lock.lock();
        }
        changed.wait(lock, wanted);
        if (stopping) break;
        fresh.swap(inbox);
        dirty = false;
      }
      for (auto& ticket : fresh) runner.take(std::move(ticket));
      busy = runner.work();
      // Small models take a step in less than a report takes.
      const bool ended = runner.has_ended();
      if (busy && !ended && reported.seconds() < kReportSeconds) continue;
      reported.restart();
      std::lock_guard lock(mutex);
      runner.report(known);
      rate = runner.cost().prompt_rate();
      answer_seconds = runner.answer_seconds();
      std::erase_if(tickets, [](const auto& each) { return each.second->ended.load(); });
    }
  } catch (...) {
    std::lock_guard lock(mutex);
    failed = true;
  }
  finish();
}

void Scheduler::Impl::finish() noexcept {
  std::vector<std::shared_ptr<Ticket>> fresh;
  {
    std::lock_guard lock(mutex);
    draining = gone = true;
    fresh.swap(inbox);
  }
  for (auto& ticket : fresh) runner.take(std::move(ticket));
  runner.cancel_all();
  std::lock_guard lock(mutex);
  runner.report(known);
  tickets.clear();
}

Scheduler::Scheduler(runtime::Engine& engine, const SchedulerOptions& options)
    : impl_(std::make_unique<Impl>(engine, options)) {}
Scheduler::~Scheduler() = default;

RequestId Scheduler::submit(Request request, std::shared_ptr<Listener> listener) {
  std::vector<Submission> one;
  one.push_back({std::move(request), std::move(listener)});
  return impl_->submit(std::move(one)).front();
}
std::vector<RequestId> Scheduler::submit(std::vector<Submission> requests) {
  return impl_->submit(std::move(requests));
}
void Scheduler::cancel(RequestId id) {
  impl_->change(id, [](Ticket& ticket) { ticket.cancelled = true; });
}
void Scheduler::pause(RequestId id) {
  impl_->change(id, [](Ticket& ticket) { ticket.paused = true; });
}
void Scheduler::resume(RequestId id) {
  impl_->change(id, [](Ticket& ticket) { ticket.paused = false; });
}
void Scheduler::drain() {
  std::lock_guard lock(impl_->mutex);
  impl_->draining = true;
}
bool Scheduler::idle() const {
  std::lock_guard lock(impl_->mutex);
  return std::all_of(impl_->tickets.begin(), impl_->tickets.end(),
                     [](const auto& t) { return t.second->ended.load(); });
}
const SchedulerOptions& Scheduler::options() const { return impl_->options; }

Snapshot Scheduler::snapshot() const {
  std::lock_guard lock(impl_->mutex);
  Snapshot snapshot = impl_->known;
  for (const auto& [id, ticket] : impl_->tickets) {
    if (ticket->ended) continue;
    const RequestState state =
        ticket->paused && ticket->state != RequestState::queued ? RequestState::paused : ticket->state.load();
    snapshot.requests.push_back({.id = id,
                                 .state = state,
                                 .prompt_tokens = std::ssize(ticket->request.prompt),
                                 .cached_tokens = ticket->cached,
                                 .evaluated_tokens = ticket->evaluated,
                                 .generated_tokens = ticket->generated,
                                 .max_tokens = ticket->request.max_tokens,
                                 .priority = ticket->request.priority,
                                 .seconds = ticket->since.seconds()});
    ++(state == RequestState::queued   ? snapshot.waiting
       : state == RequestState::paused ? snapshot.paused
                                       : snapshot.running);
  }
  std::stable_partition(snapshot.requests.begin(), snapshot.requests.end(),
                        [](const RequestSnapshot& r) { return r.state != RequestState::queued; });
  snapshot.counters.submitted = impl_->submitted;
  snapshot.counters.refused_queue = impl_->refused_queue, snapshot.counters.refused_wait = impl_->refused_wait;
  snapshot.counters.refused_bad = impl_->refused_bad;
  if (const double began = impl_->runner.step_began; began > 0) {
    snapshot.step_running_seconds = Runner::now() - began;
    snapshot.step_expected_seconds = impl_->runner.step_expected;
  }
  snapshot.wait_seconds = impl_->wait_seconds_locked();
  snapshot.stopping = impl_->draining, snapshot.failed = impl_->failed;
  return snapshot;
}

}  // namespace coterie::serve
