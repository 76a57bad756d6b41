#include <benchmark/benchmark.h>

#include <map>
#include <vector>

#include "base/rng.h"
#include "kernels/probe.h"
#include "kernels/table.h"
#include "ops/conv.h"
#include "ops/delta.h"
#include "ops/scan.h"

// The ops of state-space layers at published shapes, on the instruction set that COTERIE_ISA names or the best one.
// `of_peak` is the share of the machine's multiply-adds that the recurrence's own arithmetic comes to (5 operations a
// state: decay, input, read; the exponentials of Mamba come on top and are not counted), `of_read` the share of its
// read bandwidth that states, inputs and outputs come to. Prefill of 512 tokens is bound by the first, decode by the
// second.
namespace {

using namespace coterie;

struct Bench {
  threads::Pool pool;
  tensor::Arena arena;
  ops::Context context;
  explicit Bench(int threads) : pool(threads), context{pool, kernels::select(), arena} {}
};

std::vector<float> values(int64_t n, float scale, float offset, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& value : x) value = offset + scale * rng.uniform();
  return x;
}

const kernels::MachineLimits& limits(threads::Pool& pool) {
  static std::map<int, kernels::MachineLimits> measured;
  const auto found = measured.find(pool.threads());
  if (found != measured.end()) return found->second;
  return measured[pool.threads()] = kernels::measure_limits(kernels::select(), pool);
}

void report(benchmark::State& state, Bench& bench, int64_t tokens, double operations, double bytes) {
  const kernels::MachineLimits& limit = limits(bench.pool);
  const double rounds = static_cast<double>(state.iterations());
  const auto rate = [&](double amount) { return benchmark::Counter(amount * rounds, benchmark::Counter::kIsRate); };
  state.counters["GB/s"] = rate(bytes / 1e9);
  state.counters["of_read"] = rate(bytes / 1e9 / limit.read_gb_s);
  state.counters["Gop/s"] = rate(operations / 1e9);
  state.counters["of_peak"] = rate(operations / 1e9 / limit.f32_gflop_s);
  state.SetItemsProcessed(state.iterations() * tokens);
}

/// C channels, width 4.
void convolution(benchmark::State& state) {
  const int64_t tokens = state.range(0), channels = state.range(1), width = 4;
  Bench bench(static_cast<int>(state.range(2)));
  const std::vector<float> x = values(tokens * channels, 2, -1, 1), taps = values(width * channels, 1, 0, 2);
  std::vector<float> history(static_cast<size_t>((width - 1) * channels)), y(x.size());
  const ops::Convolution convolution{width, taps.data(), nullptr, kernels::Activation::silu};
  const ops::Recurrence sequence[] = {{0, tokens, history.data()}};
  for (auto _ : state) {
    ops::causal_conv1d(bench.context, convolution, {x.data(), tokens, channels}, sequence,
                       {y.data(), tokens, channels});
    benchmark::DoNotOptimize(y.data());
  }
  report(state, bench, tokens, 2.0 * static_cast<double>(tokens * channels * width),
         4.0 * static_cast<double>(2 * tokens * channels + 2 * (width - 1) * channels));
}

/// Mamba: C channels of S states.
void selective(benchmark::State& state) {
  const int64_t tokens = state.range(0), channels = state.range(1), states = state.range(2);
  Bench bench(static_cast<int>(state.range(3)));
  const std::vector<float> x = values(tokens * channels, 2, -1, 1), dt = values(tokens * channels, 0.1f, 0.001f, 2);
  const std::vector<float> a = values(states * channels, -16, 0, 3), d = values(channels, 1, 0, 4);
  const std::vector<float> bc = values(tokens * 2 * states, 2, -1, 5);
  std::vector<float> h(static_cast<size_t>(states * channels)), y(x.size());
  const tensor::ConstMatrix both(bc.data(), tokens, 2 * states);
  const ops::ScanInputs inputs{both.col_range(0, states), both.col_range(states, 2 * states), 1, 0};
  const ops::Recurrence sequence[] = {{0, tokens, h.data()}};
  for (auto _ : state) {
    ops::selective_scan(bench.context, {states, a.data(), d.data()}, {x.data(), tokens, channels},
                        {dt.data(), tokens, channels}, inputs, sequence, {y.data(), tokens, channels});
    benchmark::DoNotOptimize(y.data());
  }
  report(state, bench, tokens, 5.0 * static_cast<double>(tokens * channels * states),
         4.0 * static_cast<double>(3 * tokens * channels + 3 * channels * states));
}

/// Mamba-2: H heads of 64 channels and S states, one group.
void heads(benchmark::State& state) {
  const int64_t tokens = state.range(0), heads = state.range(1), states = state.range(2), channels = heads * 64;
  Bench bench(static_cast<int>(state.range(3)));
  const std::vector<float> x = values(tokens * channels, 2, -1, 1), dt = values(tokens * heads, 0.1f, 0.001f, 2);
  const std::vector<float> a = values(heads, -16, 0, 3), d = values(heads, 1, 0, 4);
  const std::vector<float> bc = values(tokens * 2 * states, 2, -1, 5);
  std::vector<float> h(static_cast<size_t>(states * channels)), y(x.size());
  const tensor::ConstMatrix both(bc.data(), tokens, 2 * states);
  const ops::ScanInputs inputs{both.col_range(0, states), both.col_range(states, 2 * states), 1, 0};
  const ops::Recurrence sequence[] = {{0, tokens, h.data()}};
  for (auto _ : state) {
    bench.arena.reset();
    ops::head_scan(bench.context, {heads, states, a.data(), d.data()}, {x.data(), tokens, channels},
                   {dt.data(), tokens, heads}, inputs, sequence, {y.data(), tokens, channels});
    benchmark::DoNotOptimize(y.data());
  }
  report(state, bench, tokens, 5.0 * static_cast<double>(tokens * channels * states),
         4.0 * static_cast<double>(2 * tokens * channels + 2 * channels * states));
}

/// The gated delta rule: H value heads of 128 channels over keys of 128, two to a key head; a decay for each head, or
/// for each channel. 7 operations a state: decay, two for what is recalled, two for what is written, two for what is
/// read.
void delta(benchmark::State& state) {
  const int64_t tokens = state.range(0), heads = state.range(1), dim = 128, keys = heads / 2 * dim, width = heads * dim;
  const int64_t decays = state.range(2) ? width : heads;
  Bench bench(static_cast<int>(state.range(3)));
  const std::vector<float> q = values(tokens * keys, 0.1f, -0.05f, 1), k = values(tokens * keys, 0.1f, -0.05f, 2);
  const std::vector<float> v = values(tokens * width, 2, -1, 3), decay = values(tokens * decays, 0.1f, 0.9f, 4);
  const std::vector<float> beta = values(tokens * heads, 1, 0, 5);
  std::vector<float> s(static_cast<size_t>(width * dim)), y(v.size());
  const ops::Recurrence sequence[] = {{0, tokens, s.data()}};
  for (auto _ : state) {
    ops::delta_rule(bench.context, {heads / 2, heads, dim, dim},
                    {{q.data(), tokens, keys},
                     {k.data(), tokens, keys},
                     {v.data(), tokens, width},
                     {decay.data(), tokens, decays},
                     {beta.data(), tokens, heads}},
                    sequence, {y.data(), tokens, width});
    benchmark::DoNotOptimize(y.data());
  }
  report(state, bench, tokens, 7.0 * static_cast<double>(tokens * width * dim),
         4.0 * static_cast<double>(2 * tokens * width + 2 * tokens * keys + 2 * width * dim));
}

// Channels of mamba-370m and mamba-2.8b; heads of mamba2-2.7b and Granite 4.0 h-small.
BENCHMARK(convolution)->ArgsProduct({{1, 512}, {2048, 5120}, {1, 2}})->UseRealTime();
BENCHMARK(selective)->ArgsProduct({{1, 512}, {2048, 5120}, {16}, {1, 2}})->UseRealTime();
BENCHMARK(heads)->ArgsProduct({{1, 512}, {80, 128}, {128}, {1, 2}})->UseRealTime();
// Heads of Qwen3.5-35B-A3B.
BENCHMARK(delta)->ArgsProduct({{1, 512}, {32}, {0, 1}, {1, 2}})->UseRealTime();

}  // namespace
