#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/clock.h"
#include "base/median.h"
#include "base/rng.h"
#include "kernels/probe.h"
#include "ops/matmul.h"
#include "ops/moe/down.h"
#include "ops/moe/gated_matmul.h"
#include "runtime/walk.h"

// Matmul on weights in their file formats against the machine's limits, on the instruction set that COTERIE_ISA names
// or the best one. Each prints GB/s of weights read and its share of the read bandwidth, and Gop/s (a multiply-add
// counts two) and its share of the peak: the int8 dot product's for blocks in `fast`, the f32 multiply-add's else.
// Arguments: dtype, tokens, rows, cols, precision (0 = f32, 1 = fast), threads.
namespace {

using namespace coterie;
using tensor::DType;

const kernels::MachineLimits& limits(threads::Pool& pool) {
  static std::vector<std::pair<int, kernels::MachineLimits>> measured;
  for (const auto& [threads, found] : measured) {
    if (threads == pool.threads()) return found;
  }
  measured.emplace_back(pool.threads(), kernels::measure_limits(kernels::select(), pool));
  return measured.back().second;
}

void report(benchmark::State& state, threads::Pool& pool, double bytes, double operations, const DType* integers,
            int64_t tokens) {
  const kernels::MachineLimits& limit = limits(pool);
  const int64_t tiles_from = integers ? kernels::select().matmul.fast[static_cast<size_t>(*integers)].tiles_from : 0;
  const bool tiles = tiles_from > 0 && tokens >= tiles_from;
  const double peak = tiles ? limit.tile_gop_s : integers ? limit.int8_gop_s : limit.f32_gflop_s;
  const double rounds = static_cast<double>(state.iterations());
  const auto rate = [&](double amount) { return benchmark::Counter(amount * rounds, benchmark::Counter::kIsRate); };
  state.counters["GB/s"] = rate(bytes / 1e9);
  state.counters["of_read"] = rate(bytes / 1e9 / limit.read_gb_s);
  state.counters["Gop/s"] = rate(operations / 1e9);
  state.counters["of_peak"] = rate(operations / 1e9 / peak);
}

/// Bytes that are ordinary numbers in every format: f16 scales between 2^-3 and 2^-1.
void fill_weights(tensor::Buffer<std::byte>& buffer) {
  base::Rng rng(1);
  std::byte pattern[4096];
  for (std::byte& byte : pattern) byte = static_cast<std::byte>(0x30 | (rng.bits() & 7));
  for (int64_t i = 0; i < buffer.size(); i += 4096)
    std::memcpy(buffer.data() + i, pattern, static_cast<size_t>(std::min<int64_t>(4096, buffer.size() - i)));
}

void matmul(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(0));
  const int64_t tokens = state.range(1), rows = state.range(2), cols = state.range(3);
  const ops::Precision precision = state.range(4) == 0 ? ops::Precision::f32 : ops::Precision::fast;
  threads::Pool pool(static_cast<int>(state.range(5)));
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena, precision};
  const int64_t bytes = rows * tensor::row_bytes(dtype, cols);
  // Few tokens: so many weights in turn that none is found in a cache.
  const int64_t copies = tokens > 8 ? 1 : 1 + (256 << 20) / bytes;
  tensor::Buffer<std::byte> buffer(bytes * copies);
  fill_weights(buffer);
  std::vector<float> x(static_cast<size_t>(tokens * cols)), y(static_cast<size_t>(tokens * rows));
  base::Rng rng(2);
  for (float& value : x) value = rng.normal();
  int64_t next = 0;
  for (auto _ : state) {
    const tensor::Weight w(buffer.data() + bytes * (next++ % copies), dtype, rows, cols);
    ops::matmul(context, {x.data(), tokens, cols}, w, nullptr, {y.data(), tokens, rows});
    benchmark::DoNotOptimize(y.data());
  }
  report(state, pool, static_cast<double>(bytes), 2.0 * static_cast<double>(tokens * rows * cols),
         tensor::is_block(dtype) && precision == ops::Precision::fast ? &dtype : nullptr, tokens);
  state.SetLabel(std::string(tensor::name(dtype)) + (precision == ops::Precision::f32 ? " f32" : " fast"));
}

/// Few tokens by repacked rows, in turn with a plain sum of as many bytes: on a machine whose bandwidth changes from
/// second to second only that says which share of it they come to.
void repacked(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(0));
  const int64_t tokens = state.range(1), rows = state.range(2), cols = state.range(3);
  threads::Pool pool(static_cast<int>(state.range(4)));
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena};
  context.read_ahead = runtime::walk_of_this_machine(pool, context.kernels).read_ahead;
  const kernels::MatmulKernels& kernels = context.kernels.matmul;
  if (!kernels.repack) return state.SkipWithError("these kernels read no repacked rows");
  const int64_t bytes = rows * tensor::row_bytes(dtype, cols),
                copies = bytes < (1 << 20) ? 1 : 1 + (512 << 20) / bytes;  // small ones stay in the cache
  tensor::Buffer<std::byte> file(bytes), buffer(bytes * copies);
  fill_weights(file);
  const int64_t row_bytes = tensor::row_bytes(dtype, cols);
  for (int64_t at = 0; at < bytes; at += kernels.panel_rows * row_bytes)
    kernels.repack(file.data() + at, row_bytes, row_bytes, kernels.fast[static_cast<size_t>(dtype)].repacked,
                   buffer.data() + at);
  for (int64_t copy = 1; copy < copies; ++copy)
    std::memcpy(buffer.data() + copy * bytes, buffer.data(), static_cast<size_t>(bytes));
  std::vector<float> x(static_cast<size_t>(tokens * cols)), y(static_cast<size_t>(tokens * rows));
  base::Rng rng(2);
  for (float& value : x) value = rng.normal();
  std::vector<double> shares, products, reads;
  int64_t next = 0;
  for (auto _ : state) {
    tensor::Weight w(buffer.data() + bytes * (next++ % copies), dtype, rows, cols);
    w.repacked = true;
    const base::Stopwatch product;
    ops::matmul(context, {x.data(), tokens, cols}, w, nullptr, {y.data(), tokens, rows});
    products.push_back(product.seconds());
    const std::byte* at = buffer.data() + bytes * (next++ % copies);
    const int64_t share = bytes / pool.threads() / 64 * 64;
    const base::Stopwatch read;
    pool.run(
        [&](int worker) { benchmark::DoNotOptimize(kernels.read(at + worker * share, share, context.read_ahead)); });
    reads.push_back(read.seconds()), shares.push_back(reads.back() / products.back());
  }
  state.counters["GB/s"] = static_cast<double>(bytes) / base::median(products) / 1e9;
  state.counters["sum_GB/s"] = static_cast<double>(bytes) / base::median(reads) / 1e9;
  state.counters["of_sum"] = base::median(shares);
  state.SetLabel(std::string(tensor::name(dtype)) + ", medians");
}

/// The experts of one layer of Qwen3-30B-A3B: 128 experts, 8 a token, D 2048, F 768.
void experts(benchmark::State& state) {
  constexpr int64_t kExperts = 128, kChosen = 8, kD = 2048, kF = 768;
  const DType dtype = static_cast<DType>(state.range(0));
  const int64_t tokens = state.range(1);
  threads::Pool pool(static_cast<int>(state.range(2)));
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena};
  const int64_t wide = kF * tensor::row_bytes(dtype, kD), tall = kD * tensor::row_bytes(dtype, kF);
  tensor::Buffer<std::byte> buffer(kExperts * (2 * wide + tall));
  fill_weights(buffer);
  std::vector<ops::ExpertInput> inputs;
  std::vector<ops::ExpertOutput> outputs;
  for (int64_t e = 0; e < kExperts; ++e) {
    const std::byte* at = buffer.data() + e * (2 * wide + tall);
    inputs.push_back({{at, dtype, kF, kD}, {at + wide, dtype, kF, kD}, nullptr, nullptr});
    outputs.push_back({{at + 2 * wide, dtype, kD, kF}, nullptr});
  }
  base::Rng rng(3);
  std::vector<ops::RoutingPlan> plans;
  int64_t used = 0;
  for (int i = 0; i < 64; ++i) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < tokens; ++t) {
      const uint32_t first = rng.below(kExperts);
      for (uint32_t c = 0; c < kChosen; ++c) ids.push_back(static_cast<int32_t>((first + 11 * c) % kExperts));
    }
    plans.push_back(ops::make_plan(ids, std::vector<float>(ids.size(), 0.125f), tokens, kChosen, kExperts));
    if (i == 0) {
      for (int64_t e = 0; e < kExperts; ++e) used += plans[0].tokens_of(e).empty() ? 0 : 1;
    }
  }
  std::vector<float> x(static_cast<size_t>(tokens * kD)), y(x.size()), h(static_cast<size_t>(tokens * kChosen * kF));
  for (float& value : x) value = rng.normal();
  size_t next = 0;
  for (auto _ : state) {
    const ops::RoutingPlan& plan = plans[next++ % plans.size()];
    const tensor::Matrix hidden(h.data(), tokens * kChosen, kF);
    ops::grouped_gated_matmul(context, {x.data(), tokens, kD}, plan, inputs, ops::Activation::silu, hidden);
    ops::grouped_down_combine(context, hidden, plan, outputs, {y.data(), tokens, kD});
    benchmark::DoNotOptimize(y.data());
  }
  report(state, pool, static_cast<double>(used * (2 * wide + tall)),
         6.0 * static_cast<double>(tokens * kChosen * kD * kF), tensor::is_block(dtype) ? &dtype : nullptr,
         tokens * kChosen / kExperts);
  state.SetLabel(std::string(tensor::name(dtype)) + " qwen3-30b-a3b layer");
}

constexpr DType kAll[] = {DType::q2_k,    DType::q3_k,   DType::q4_k,  DType::q5_k,    DType::q6_k,
                          DType::iq4_xs,  DType::q4_0,   DType::q4_1,  DType::q5_0,    DType::q5_1,
                          DType::q8_0,    DType::iq4_nl, DType::mxfp4, DType::iq1_s,   DType::iq1_m,
                          DType::iq2_xxs, DType::iq2_xs, DType::iq2_s, DType::iq3_xxs, DType::iq3_s,
                          DType::tq1_0,   DType::tq2_0,  DType::bf16,  DType::f16,     DType::f32};

// With one thread the rates are by CPU time, with more by wall time.
void each_dtype(benchmark::internal::Benchmark* bench, std::initializer_list<int64_t> tokens, int64_t threads) {
  for (DType dtype : kAll)
    for (int64_t n : tokens) bench->Args({static_cast<int64_t>(dtype), n, 2048, 2048, 1, threads});
}
BENCHMARK(matmul)->Name("decode")->Apply([](auto* bench) { each_dtype(bench, {1}, 1); });
BENCHMARK(matmul)->Name("decode_2_threads")->Apply([](auto* bench) { each_dtype(bench, {1}, 2); }) -> UseRealTime();
BENCHMARK(matmul)->Name("prefill")->Apply([](auto* bench) { each_dtype(bench, {32, 512}, 1); });
BENCHMARK(matmul)->Name("prefill_2_threads")->Apply([](auto* bench) { each_dtype(bench, {512}, 2); }) -> UseRealTime();
BENCHMARK(repacked)
    ->Name("repacked")
    ->Apply([](auto* bench) {
      for (DType dtype : kAll) {
        bench->Args({static_cast<int64_t>(dtype), 1, 256, 2048, 1});
        for (int64_t threads : {1, 2}) bench->Args({static_cast<int64_t>(dtype), 1, 8192, 2048, threads});
        for (int64_t tokens : {4, 8}) bench->Args({static_cast<int64_t>(dtype), tokens, 8192, 2048, 2});
      }
    }) -> UseRealTime();
BENCHMARK(experts)->Name("experts")->ArgsProduct(
    {{static_cast<int64_t>(DType::q4_k), static_cast<int64_t>(DType::q6_k)}, {1, 512}, {1}});
BENCHMARK(experts)
    ->Name("experts_2_threads")
    ->ArgsProduct({{static_cast<int64_t>(DType::q4_k), static_cast<int64_t>(DType::q6_k)}, {1, 512}, {2}})
    ->UseRealTime();

}  // namespace
