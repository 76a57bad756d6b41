#include <benchmark/benchmark.h>

#include "threads/pool.h"

// What it costs to start a job on the pool and wait for it, and to meet inside one: the price of each matmul of a
// decode step, besides its work. Argument: threads. Read it on an idle machine; where a worker has no processor of its
// own, the figures are those of the system's scheduler.
namespace {

using namespace coterie;

void start_and_wait(benchmark::State& state) {
  threads::Pool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) pool.run([](int) {});
}

void tickets(benchmark::State& state) {  // 64 empty tasks, handed out one by one: a matmul's pieces
  threads::Pool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) pool.each(64, [](int64_t task, int) { benchmark::DoNotOptimize(task); });
}

void barriers(benchmark::State& state) {
  constexpr int kBarriers = 1000;
  threads::Pool pool(static_cast<int>(state.range(0)));
  for (auto _ : state)
    pool.run([&](int) {
      for (int i = 0; i < kBarriers; ++i) pool.barrier();
    });
  state.SetItemsProcessed(state.iterations() * kBarriers);
}

void threads_of(benchmark::internal::Benchmark* bench) {
  const int most = threads::Pool().threads();
  for (int threads = 1; threads < most; threads *= 2) bench->Arg(threads);
  bench->Arg(most)->UseRealTime();
}

BENCHMARK(start_and_wait)->Apply(threads_of);
BENCHMARK(tickets)->Apply(threads_of);
BENCHMARK(barriers)->Apply(threads_of);

}  // namespace
