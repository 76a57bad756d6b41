#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/median.h"
#include "base/rng.h"
#include "runtime/engine.h"
#include "runtime/weight_bytes.h"
#include "tensor/buffer.h"

// Decoding against memory, token by token: after each token the same threads read as many bytes as it read of weights
// from memory of their own, as weights are walked there and as a plain sum does, one run a thread. On a machine whose
// bandwidth changes from second to second no other order of measuring says what share of it decoding reaches.
// COTERIE_BENCH_MODEL names the model; arguments: whether the weights are moved (repacked, in large pages) before, or
// stay in the pages of the file; positions in the cache before, whose bytes then count as well (as if no layer had a
// window); sequences side by side, whose experts are counted as many as there would be if all were chosen alike often
// (random weights do; a trained model's are fewer).
namespace {

using namespace coterie;

constexpr int64_t kPositions = 64;

/// What a step of so many sequences reads of weights: of routed experts, of E and K a token, E * (1 - (1 - K/E)^batch).
int64_t step_bytes(const runtime::WeightBytes& bytes, int64_t batch) {
  constexpr auto kExperts = static_cast<size_t>(layers::Place::experts);
  const auto held = static_cast<double>(bytes.held[kExperts]), touched = static_cast<double>(bytes.touched[kExperts]);
  return bytes.touched_with(held > 0 ? 1 - std::pow(1 - touched / held, static_cast<double>(batch)) : 0);
}

void measure(benchmark::State& state) {
  const char* path = std::getenv("COTERIE_BENCH_MODEL");
  if (!path) return state.SkipWithError("COTERIE_BENCH_MODEL names no model");
  runtime::EngineOptions options;
  options.move_weights = state.range(0) != 0;
  runtime::Engine engine(families::open_model(path), options);
  const int64_t depth = state.range(1), batch = state.range(2);
  if (depth + kPositions > engine.context_size())
    return state.SkipWithError(
        fmt::format("the context has {} positions, {} are needed", engine.context_size(), depth + kPositions).c_str());
  std::vector<runtime::KvCache> caches;
  for (int64_t i = 0; i < batch; ++i) caches.push_back(engine.make_cache());
  base::Rng rng(1);
  std::vector<int32_t> ids(static_cast<size_t>(batch));
  const auto step = [&] {
    std::vector<models::SequenceStep> steps;
    for (size_t i = 0; i < caches.size(); ++i) {
      ids[i] = static_cast<int32_t>(rng.below(static_cast<uint64_t>(engine.spec().vocabulary)));
      steps.push_back({.ids = {&ids[i], 1}, .state = &caches[i]});
    }
    engine.evaluate(steps);
  };
  for (int i = 0; i < 4; ++i) step();
  engine.move_all_weights();
  const auto fill = [&] {
    const std::vector<int32_t> before(static_cast<size_t>(depth), 1);
    for (runtime::KvCache& cache : caches) {
      cache = engine.make_cache();
      const models::SequenceStep whole{.ids = before, .state = &cache};
      if (depth > 0) engine.evaluate({&whole, 1});
    }
  };
  fill();
  // The cache goes from `depth` to kPositions more, again and again.
  const int64_t bytes = step_bytes(runtime::weight_bytes(*engine.model().decoder), batch) +
                        batch * (depth + kPositions / 2) * engine.cache().position_bytes();
  const int64_t share = bytes / engine.threads() / 4096 * 4096;
  tensor::Buffer<std::byte> memory(share * engine.threads());
  std::memset(memory.data(), 1, static_cast<size_t>(memory.size()));
  const auto read = [&](kernels::ReadAhead walk) {
    const base::Stopwatch clock;
    engine.context().pool.run([&](int worker) {
      benchmark::DoNotOptimize(engine.context().kernels.matmul.read(memory.data() + worker * share, share, walk));
    });
    return clock.seconds();
  };
  std::vector<double> steps, reads, shares, plain_shares;
  for (auto _ : state) {
    const base::Stopwatch clock;
    step();
    steps.push_back(clock.seconds());
    reads.push_back(read(engine.context().read_ahead));
    shares.push_back(reads.back() / steps.back());
    plain_shares.push_back(read({}) / steps.back());
    // Recurrent states go back to a snapshot alone.
    if (caches.front().length() >= depth + kPositions &&
        std::any_of(caches.begin(), caches.end(), [&](auto& cache) { return cache.truncate(depth) != depth; }))
      fill();
  }
  state.counters["ms a step"] = base::median(steps) * 1e3;
  state.counters["GB/s read"] = static_cast<double>(share * engine.threads()) / base::median(reads) / 1e9;
  state.counters["of_reading"] = base::median(shares);
  state.counters["of_plain_sum"] = base::median(plain_shares);
  state.SetLabel("medians");
}

void decode(benchmark::State& state) {
  try {
    measure(state);
  } catch (const base::Error& error) {
    state.SkipWithError(error.what());
  }
}

BENCHMARK(decode)
    ->ArgNames({"repacked", "depth", "batch"})
    ->Args({1, 0, 1})
    ->Args({1, 4096, 1})
    ->Args({1, 0, 4})
    ->Args({1, 0, 8})
    ->Args({0, 0, 1})
    ->Iterations(200)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
