#include <benchmark/benchmark.h>

#include <vector>

#include "base/rng.h"
#include "kernels/probe.h"
#include "ops/attention.h"

// Attention against the machine's limits, on the instruction set that COTERIE_ISA names or the best one.
//   prefill: GFLOP/s and its share of the multiply-add rate; a multiply-add counts two, only visible positions count
//   decode:  GB/s of cache read and its share of the read bandwidth
// Arguments: tokens, depth, heads, KV heads, width of a key, of a value, threads.
namespace {

using namespace coterie;

const kernels::MachineLimits& limits(threads::Pool& pool) {
  static std::vector<std::pair<int, kernels::MachineLimits>> measured;
  for (const auto& [threads, found] : measured) {
    if (threads == pool.threads()) return found;
  }
  measured.emplace_back(pool.threads(), kernels::measure_limits(kernels::select(), pool));
  return measured.back().second;
}

void attend(benchmark::State& state) {
  const int64_t tokens = state.range(0), depth = state.range(1);
  ops::AttentionShape shape;
  shape.heads = state.range(2);
  shape.layout = {state.range(3), state.range(4), state.range(5), tensor::DType::f16};
  shape.scale = 0.1f;
  threads::Pool pool(static_cast<int>(state.range(6)));
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena};

  const int64_t positions = depth + tokens, blocks = (positions + ops::kCacheBlock - 1) / ops::kCacheBlock;
  // Enough layers that a decode step finds none of its cache in a processor's cache.
  const int64_t bytes = blocks * shape.layout.block_bytes();
  const int64_t layers = tokens > 1 ? 1 : 1 + (256 << 20) / bytes;
  tensor::Buffer<std::byte> memory(layers * bytes);
  std::vector<std::byte*> pointers;
  for (int64_t b = 0; b < layers * blocks; ++b) pointers.push_back(memory.data() + b * shape.layout.block_bytes());
  base::Rng rng(1);
  const auto fill = [&rng](std::vector<float>& values) {
    for (float& value : values) value = rng.uniform() - 0.5f;
  };
  const int64_t q_cols = shape.heads * shape.layout.key_dim, k_cols = shape.layout.kv_heads * shape.layout.key_dim;
  std::vector<float> q(static_cast<size_t>(tokens * q_cols)), kv(static_cast<size_t>(positions * k_cols));
  const int64_t v_cols = shape.layout.kv_heads * shape.layout.value_dim,
                out_cols = shape.heads * shape.layout.value_dim;
  std::vector<float> out(static_cast<size_t>(tokens * out_cols));
  fill(q), fill(kv);
  const auto layer = [&](int64_t i) {
    return std::span<std::byte* const>(pointers).subspan(static_cast<size_t>(i * blocks), static_cast<size_t>(blocks));
  };
  for (int64_t i = 0; i < layers; ++i) {
    const ops::Segment all{0, positions, 0, layer(i)};
    ops::append_cache(context, shape.layout, {kv.data(), positions, k_cols}, {kv.data(), positions, v_cols, k_cols},
                      {&all, 1});
  }
  int64_t next = 0;
  for (auto _ : state) {
    const ops::Segment segment{0, tokens, depth, layer(next++ % layers)};
    ops::attention(context, shape, {q.data(), tokens, q_cols}, {&segment, 1}, {out.data(), tokens, out_cols});
    benchmark::ClobberMemory();
  }
  const double seen =
      static_cast<double>(tokens) * (static_cast<double>(depth) + 0.5 * (static_cast<double>(tokens) + 1));
  const double flops = 2 * seen * static_cast<double>(q_cols + out_cols) * static_cast<double>(state.iterations());
  const double read = static_cast<double>(bytes) * static_cast<double>(state.iterations());
  const kernels::MachineLimits& limit = limits(pool);
  using benchmark::Counter;
  state.counters["GFLOP/s"] = Counter(flops * 1e-9, Counter::kIsRate);
  state.counters["of_peak"] = Counter(flops * 1e-9 / limit.f32_gflop_s, Counter::kIsRate);
  if (tokens == 1) {
    state.counters["GB/s"] = Counter(read * 1e-9, Counter::kIsRate);
    state.counters["of_bandwidth"] = Counter(read * 1e-9 / limit.read_gb_s, Counter::kIsRate);
  }
}

BENCHMARK(attend)
    ->Name("prefill")
    ->ArgNames({"tokens", "depth", "heads", "kv", "key", "value", "threads"})
    ->Args({512, 0, 32, 4, 128, 128, 1})
    ->Args({512, 0, 32, 4, 128, 128, 2})
    ->Args({512, 3584, 32, 4, 128, 128, 1})
    ->Args({4096, 0, 32, 4, 128, 128, 2})
    ->Args({512, 0, 9, 3, 64, 64, 1})
    ->Args({512, 0, 16, 16, 128, 128, 1})
    ->Args({512, 0, 16, 16, 192, 128, 1})  // DeepSeek-V2-Lite with keys and values made …
    ->Args({512, 0, 16, 1, 576, 512, 1})   // … and absorbed
    ->Args({512, 3584, 16, 16, 192, 128, 1})
    ->Args({512, 3584, 16, 1, 576, 512, 1})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(attend)
    ->Name("decode")
    ->ArgNames({"tokens", "depth", "heads", "kv", "key", "value", "threads"})
    ->Args({1, 4095, 32, 4, 128, 128, 1})
    ->Args({1, 4095, 32, 4, 128, 128, 2})
    ->Args({1, 4095, 16, 16, 128, 128, 2})
    ->Args({1, 4095, 16, 16, 192, 128, 1})  // as above
    ->Args({1, 4095, 16, 1, 576, 512, 1})
    ->Args({1, 4095, 128, 128, 192, 128, 1})  // DeepSeek-V3
    ->Args({1, 4095, 128, 1, 576, 512, 1})
    ->Args({1, 511, 32, 4, 128, 128, 2})
    ->Args({1, 511, 9, 3, 64, 64, 2})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
