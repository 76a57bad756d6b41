#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "median.h"
#include "runtime/engine.h"
#include "runtime/weight_bytes.h"
#include "tensor/buffer.h"

// Decoding against memory, token by token: after each token the same threads read as many bytes as it read of weights
// from memory of their own. On a machine whose bandwidth changes from second to second no other order of measuring
// says what share of it decoding reaches. COTERIE_BENCH_MODEL names the model; arguments: whether the weights are
// settled (turned, in large pages) before, or stay in the pages of the file; positions in the cache before, whose
// bytes then count as well (as if no layer had a window).
namespace {

using namespace coterie;

constexpr int64_t kPositions = 64;

void measure(benchmark::State& state) {
  const char* path = std::getenv("COTERIE_BENCH_MODEL");
  if (!path) return state.SkipWithError("COTERIE_BENCH_MODEL names no model");
  runtime::EngineOptions options;
  options.settle = state.range(0) != 0;
  runtime::Engine engine(models::open_model(path), options);
  const int64_t depth = state.range(1);
  if (depth + kPositions > engine.context_size())
    return state.SkipWithError(
        fmt::format("the context has {} positions, {} are needed", engine.context_size(), depth + kPositions).c_str());
  runtime::KvCache cache = engine.make_cache();
  base::Rng rng(1);
  const auto step = [&] {
    const auto id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(engine.spec().vocabulary)));
    const runtime::Evaluation evaluation{{&id, 1}, &cache};
    engine.evaluate({&evaluation, 1});
  };
  for (int i = 0; i < 4; ++i) step();
  engine.settle_weights();
  const auto fill = [&] {
    cache = engine.make_cache();
    const std::vector<int32_t> ids(static_cast<size_t>(depth), 1);
    const runtime::Evaluation evaluation{ids, &cache};
    if (depth > 0) engine.evaluate({&evaluation, 1});
  };
  fill();
  // The cache goes from `depth` to kPositions more, again and again.
  const int64_t bytes = runtime::weight_bytes(*engine.model().decoder).all_touched() +
                        (depth + kPositions / 2) * engine.cache().position_bytes();
  const int64_t share = bytes / engine.threads() / 4096 * 4096;
  tensor::Buffer<std::byte> memory(share * engine.threads());
  std::memset(memory.data(), 1, static_cast<size_t>(memory.size()));
  std::vector<double> tokens, reads, shares;
  for (auto _ : state) {
    const base::Stopwatch token;
    step();
    tokens.push_back(token.seconds());
    const base::Stopwatch read;
    engine.context().pool.run([&](int worker) {
      const kernels::MatmulKernels& kernels = engine.context().kernels.matmul;
      benchmark::DoNotOptimize(kernels.read(memory.data() + worker * share, share, kernels.read_ahead));
    });
    reads.push_back(read.seconds());
    shares.push_back(reads.back() / tokens.back());
    // Recurrent states go back to a checkpoint alone.
    if (cache.length() >= depth + kPositions && cache.truncate(depth) != depth) fill();
  }
  state.counters["ms a token"] = bench::median(tokens) * 1e3;
  state.counters["GB/s read"] = static_cast<double>(share * engine.threads()) / bench::median(reads) / 1e9;
  state.counters["of_reading"] = bench::median(shares);
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
    ->ArgNames({"settled", "depth"})
    ->Args({1, 0})
    ->Args({1, 4096})
    ->Args({0, 0})
    ->Iterations(200)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
