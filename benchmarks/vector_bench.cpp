#include <benchmark/benchmark.h>

#include <vector>

#include "base/rng.h"
#include "kernels/table.h"

// Row kernels on the instruction set that COTERIE_ISA names or the best one: a row that stays in the first-level cache
// (2048 values), and one that does not (150,000: the logits of a large vocabulary). Bytes are what the row holds, read
// and written.
namespace {

using namespace coterie;
using kernels::VectorKernels;

struct Rows {
  int64_t n;
  std::vector<float> x, y, w;
  std::vector<uint16_t> half;
  explicit Rows(int64_t n_) : n(n_), x(n), y(n), w(n, 1.0f), half(n) {
    base::Rng rng(1);
    for (float& value : x) value = rng.normal();
    y = x;
  }
};

template <typename F>
void over_rows(benchmark::State& state, int64_t bytes_per_value, F f) {
  Rows rows(state.range(0));
  const VectorKernels& kernels = kernels::select().vector;
  for (auto _ : state) {
    f(kernels, rows);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * rows.n);
  state.SetBytesProcessed(state.iterations() * rows.n * bytes_per_value);
}

void rms_norm(benchmark::State& state) {
  over_rows(state, 12,
            [](const VectorKernels& k, Rows& r) { k.rms_norm(r.x.data(), r.w.data(), 1e-5f, 0, r.y.data(), r.n); });
}
void add_scaled(benchmark::State& state) {
  over_rows(state, 12, [](const VectorKernels& k, Rows& r) { k.add_scaled(r.x.data(), 1e-9f, r.y.data(), r.n); });
}
void silu_gate(benchmark::State& state) {
  over_rows(state, 12, [](const VectorKernels& k, Rows& r) {
    k.activate(kernels::Activation::silu, r.y.data(), r.w.data(), r.n);
  });
}
void gelu(benchmark::State& state) {
  over_rows(state, 8,
            [](const VectorKernels& k, Rows& r) { k.activate(kernels::Activation::gelu, r.y.data(), nullptr, r.n); });
}
void exponential(benchmark::State& state) {
  over_rows(state, 8, [](const VectorKernels& k, Rows& r) { k.exp(r.x.data(), r.y.data(), r.n); });
}
void log_softmax(benchmark::State& state) {
  over_rows(state, 8, [](const VectorKernels& k, Rows& r) { k.log_softmax(r.y.data(), r.n); });
}
void argmax(benchmark::State& state) {
  over_rows(state, 4, [](const VectorKernels& k, Rows& r) { benchmark::DoNotOptimize(k.argmax(r.x.data(), r.n)); });
}
void to_f16(benchmark::State& state) {
  over_rows(state, 6, [](const VectorKernels& k, Rows& r) { k.f32_to_f16(r.x.data(), r.half.data(), r.n); });
}
void from_bf16(benchmark::State& state) {
  over_rows(state, 6, [](const VectorKernels& k, Rows& r) { k.bf16_to_f32(r.half.data(), r.y.data(), r.n); });
}
BENCHMARK(rms_norm)->Arg(2048)->Arg(150000);
BENCHMARK(add_scaled)->Arg(2048)->Arg(150000);
BENCHMARK(silu_gate)->Arg(2048)->Arg(150000);
BENCHMARK(gelu)->Arg(2048);
BENCHMARK(exponential)->Arg(2048)->Arg(150000);
BENCHMARK(log_softmax)->Arg(2048)->Arg(150000);
BENCHMARK(argmax)->Arg(2048)->Arg(150000);
BENCHMARK(to_f16)->Arg(2048);
BENCHMARK(from_bf16)->Arg(2048);

// The angles of one position (head_dim 128), and rotating the heads by them.
template <bool kInterleaved>
void rope(benchmark::State& state) {
  const VectorKernels& kernels = kernels::select().vector;
  std::vector<float> frequency(64, 0.37f), cosine(64), sine(64), heads(32 * 128, 1.0f);
  float position = 0;
  for (auto _ : state) {
    kernels.rope_angles(frequency.data(), position++, 1, cosine.data(), sine.data(), 64);
    for (int64_t h = 0; h < state.range(0); ++h) {
      (kInterleaved ? kernels.rope_interleaved : kernels.rope_half)(heads.data() + h * 128, cosine.data(), sine.data(),
                                                                    64);
    }
    benchmark::ClobberMemory();
  }
}
BENCHMARK_TEMPLATE(rope, false)->Name("rope_half")->ArgName("heads")->Arg(0)->Arg(32);
BENCHMARK_TEMPLATE(rope, true)->Name("rope_interleaved")->ArgName("heads")->Arg(32);

}  // namespace
