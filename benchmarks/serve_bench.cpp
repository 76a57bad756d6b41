#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "base/median.h"
#include "base/rng.h"
#include "runtime/engine.h"
#include "serve/scheduler.h"

// What a server's scheduler costs, below HTTP. COTERIE_BENCH_MODEL names the model, COTERIE_BENCH_THREADS the threads
// (1 unless said: others make spinning threads measure the neighbours).
//
// one_stream: rounds of tokens by the engine alone and by the scheduler, in turn; seconds a token of both, by the clock
// and of the processor's time, and how much more the scheduler takes (medians over the rounds, and
// the interval of that one).
// intruder: sequences that decode, then a prompt; the longest gap between their tokens, the longest without the prompt,
// the floor that the scheduler says, and the prompt's first token beside them and alone. Arguments: sequences, tokens
// of the prompt, --stall in milliseconds.
namespace {

using namespace coterie;

class Listener final : public serve::Listener {
 public:
  void on_event(serve::RequestId, serve::Event&& event) noexcept override {
    std::lock_guard lock(mutex_);
    if (std::holds_alternative<serve::TokenChosen>(event)) {
      if (tokens++ == 0)
        first_seconds = clock_.seconds();
      else
        longest_gap = std::max(longest_gap, last_.seconds());
      last_.restart();
    }
    if (auto* finished = std::get_if<serve::Finished>(&event)) ended = true, timings = finished->timings;
    if (std::holds_alternative<serve::RequestFailed>(event)) ended = failed = true;
    if (ended || tokens == wanted_) changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended; });
  }
  void wait_for_tokens(int64_t count) {
    std::unique_lock lock(mutex_);
    wanted_ = count;
    changed_.wait(lock, [&] { return ended || tokens >= count; });
  }
  /// The longest since the last call.
  double take_gap() {
    std::lock_guard lock(mutex_);
    return std::exchange(longest_gap, 0);
  }
  bool ended = false, failed = false;
  int64_t tokens = 0;
  double first_seconds = 0, longest_gap = 0;
  serve::Timings timings;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t wanted_ = -1;  // tokens that somebody waits for
  base::Stopwatch clock_, last_;
};

double processor_seconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::vector<text::TokenId> ids_of(int64_t length, uint64_t seed, int64_t vocabulary) {
  base::Rng rng(seed);
  std::vector<text::TokenId> ids(static_cast<size_t>(length));
  for (auto& id : ids) id = static_cast<text::TokenId>(rng.below(static_cast<uint64_t>(vocabulary)));
  return ids;
}

struct Bench {
  explicit Bench(const char* path, serve::SchedulerOptions options) {
    families::Model model = families::open_model(path);
    runtime::EngineOptions engine_options;
    const char* threads = std::getenv("COTERIE_BENCH_THREADS");
    engine_options.threads = threads ? std::atoi(threads) : 1;
    if (options.cache_memory == 0) options.cache_memory = int64_t{1} << 30;
    engine_options = serve::engine_options(model.decoder->spec(), engine_options, options);
    engine = std::make_unique<runtime::Engine>(std::move(model), engine_options);
    engine->move_all_weights();
    scheduler = std::make_unique<serve::Scheduler>(*engine, options);
  }
  std::shared_ptr<Listener> submit(std::vector<text::TokenId> prompt, int64_t tokens) {
    serve::Request request;
    request.prompt = std::move(prompt);
    request.max_tokens = tokens;
    request.sampler.temperature = 0;
    request.ignore_end = true;
    auto listener = std::make_shared<Listener>();
    scheduler->submit(std::move(request), listener);
    return listener;
  }
  std::unique_ptr<runtime::Engine> engine;
  std::unique_ptr<serve::Scheduler> scheduler;
};

void one_stream(benchmark::State& state) {
  const char* path = std::getenv("COTERIE_BENCH_MODEL");
  if (!path) return state.SkipWithError("COTERIE_BENCH_MODEL names no model");
  Bench bench(path, {});
  runtime::Engine& engine = *bench.engine;
  const int64_t tokens = state.range(0);
  std::vector<double> engine_wall, engine_cpu, scheduler_wall, scheduler_cpu, more;
  const auto by_engine = [&] {
    runtime::KvCache cache = engine.make_cache();
    const std::vector<text::TokenId> prompt = ids_of(8, 1, engine.spec().vocabulary);
    models::SequenceStep step{.ids = prompt, .state = &cache};
    engine.evaluate({&step, 1});
    text::TokenId id = 0;
    const double cpu = processor_seconds();
    const base::Stopwatch clock;
    for (int64_t i = 0; i < tokens; ++i) {
      step = {.ids = {&id, 1}, .state = &cache};
      engine.evaluate({&step, 1});
      id = (id + 7) % static_cast<text::TokenId>(engine.spec().vocabulary);
    }
    engine_cpu.push_back((processor_seconds() - cpu) / static_cast<double>(tokens));
    engine_wall.push_back(clock.seconds() / static_cast<double>(tokens));
  };
  const auto by_scheduler = [&] {
    // Two lengths, so that what a request costs besides its tokens is not counted.
    const auto run = [&](int64_t count) {
      const double cpu = processor_seconds();
      const base::Stopwatch clock;
      bench.submit(ids_of(8, 1, engine.spec().vocabulary), count)->wait();
      return std::pair(clock.seconds(), processor_seconds() - cpu);
    };
    const auto [short_wall, short_cpu] = run(2);
    const auto [wall, cpu] = run(tokens + 2);
    scheduler_wall.push_back((wall - short_wall) / static_cast<double>(tokens));
    scheduler_cpu.push_back((cpu - short_cpu) / static_cast<double>(tokens));
  };
  for (auto _ : state) {
    by_engine();
    by_scheduler();
    more.push_back(scheduler_cpu.back() / engine_cpu.back());
  }
  state.counters["engine_us"] = 1e6 * base::median(engine_wall);
  state.counters["scheduler_us"] = 1e6 * base::median(scheduler_wall);
  state.counters["engine_cpu_us"] = 1e6 * base::median(engine_cpu);
  state.counters["scheduler_cpu_us"] = 1e6 * base::median(scheduler_cpu);
  state.counters["more_cpu_percent"] = 100 * (base::median(more) - 1);
  // The 95 % interval of that median, by ranks.
  std::sort(more.begin(), more.end());
  const auto n = static_cast<double>(more.size());
  const auto low = static_cast<size_t>(std::max((n - 1.96 * std::sqrt(n)) / 2, 0.0));
  state.counters["more_low"] = 100 * (more[low] - 1);
  state.counters["more_high"] = 100 * (more[more.size() - 1 - low] - 1);
}
BENCHMARK(one_stream)->Arg(16)->Iterations(21)->Unit(benchmark::kMillisecond);

void intruder(benchmark::State& state) {
  const char* path = std::getenv("COTERIE_BENCH_MODEL");
  if (!path) return state.SkipWithError("COTERIE_BENCH_MODEL names no model");
  serve::SchedulerOptions options;
  options.stall_seconds = 1e-3 * static_cast<double>(state.range(2));
  options.prefix_cache = false;
  Bench bench(path, options);
  const int64_t vocabulary = bench.engine->spec().vocabulary, length = state.range(1);
  if (length + 2 > bench.engine->context_size()) return state.SkipWithError("the prompt is longer than the context");
  std::vector<double> gaps, plain, beside, alone;
  for (auto _ : state) {
    auto first = bench.submit(ids_of(length, 9, vocabulary), 1);
    first->wait();
    alone.push_back(first->first_seconds);
    std::vector<std::shared_ptr<Listener>> streams;
    const int64_t most = bench.engine->context_size() - 40;
    for (int64_t i = 0; i < state.range(0); ++i)
      streams.push_back(bench.submit(ids_of(16, static_cast<uint64_t>(i), vocabulary), most));
    for (const auto& stream : streams) stream->wait_for_tokens(8);
    for (const auto& stream : streams) stream->take_gap();
    for (const auto& stream : streams) stream->wait_for_tokens(24);
    double longest = 0;
    for (const auto& stream : streams) longest = std::max(longest, stream->take_gap());
    plain.push_back(longest);
    auto intruding = bench.submit(ids_of(length, 10, vocabulary), 1);
    intruding->wait();
    beside.push_back(intruding->first_seconds);
    longest = 0;
    for (const auto& stream : streams) longest = std::max(longest, stream->take_gap());
    gaps.push_back(longest);
    for (const serve::RequestSnapshot& request : bench.scheduler->snapshot().requests)
      bench.scheduler->cancel(request.id);
    for (const auto& stream : streams) stream->wait();
  }
  const serve::Snapshot end = bench.scheduler->snapshot();
  state.counters["gap_ms"] = 1e3 * base::median(gaps);
  state.counters["plain_gap_ms"] = 1e3 * base::median(plain);
  state.counters["floor_ms"] = 1e3 * end.stall_floor_seconds;
  state.counters["first_ms"] = 1e3 * base::median(beside);
  state.counters["first_alone_ms"] = 1e3 * base::median(alone);
}
BENCHMARK(intruder)
    ->Args({4, 2000, 500})
    ->Args({4, 2000, 1000})
    ->Args({4, 2000, 4000})
    ->Iterations(3)
    ->Unit(benchmark::kMillisecond);

}  // namespace
