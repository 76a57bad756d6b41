#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>

#include "base/json.h"
#include "base/rng.h"
#include "checkpoint/random_source.h"
#include "families/family.h"
#include "families/open.h"
#include "families/random_model.h"
#include "kernels/probe.h"
#include "models/account.h"
#include "models/loss.h"
#include "models/parameters.h"
#include "train/adamw.h"

// Forward and backward of a small model in f32: tokens a second, and the share of the multiply-add peak, counted as
// 6 x active parameters (the input embedding aside, which is looked up) x tokens. The optimiser's step is timed apart:
// its work is that of all parameters, whatever is active, and does not grow with the batch.
// d 384, 6 layers, 6 heads, V 4096, batch 8 x 256; and the recipes' small models.
namespace {

using namespace coterie;

struct Shape {
  int64_t experts, per_token, hidden;  // 1 expert = a dense FFN
  int64_t width = 384, layers = 6, heads = 6, vocabulary = 4096, sequences = 8, tokens = 256;
};

models::ModelSpec spec_of(const Shape& shape) {
  base::Json config = {{"model_type", shape.experts > 1 ? "mixtral" : "llama"},
                       {"vocab_size", shape.vocabulary},
                       {"hidden_size", shape.width},
                       {"intermediate_size", shape.hidden},
                       {"num_hidden_layers", shape.layers},
                       {"num_attention_heads", shape.heads},
                       {"num_key_value_heads", shape.heads},
                       {"hidden_act", "silu"},
                       {"max_position_embeddings", shape.tokens},
                       {"rms_norm_eps", 1e-5},
                       {"rope_theta", 10000.0},
                       {"tie_word_embeddings", false}};
  if (shape.experts > 1) config["num_local_experts"] = shape.experts, config["num_experts_per_tok"] = shape.per_token;
  return families::read_config(config, "benchmark", true);
}

double seconds_of(const auto& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void run(benchmark::State& state, const Shape& shape, int threads, bool again,
         ops::Precision precision = ops::Precision::f32) {
  const models::ModelSpec spec = spec_of(shape);
  families::RandomModel random = families::random_model(spec, tensor::DType::f32, "benchmark");
  families::Model model =
      families::open_model(checkpoint::random_source(std::move(random.tensors), std::move(random.metadata), 1));
  models::Parameters parameters(*model.decoder);
  threads::Pool pool(threads);
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena, precision};
  ops::Tape tape(arena, parameters.gradients());
  base::Rng rng(5);
  std::vector<std::vector<int32_t>> ids(static_cast<size_t>(shape.sequences));
  for (auto& sequence : ids)
    for (int64_t t = 0; t < shape.tokens; ++t)
      sequence.push_back(static_cast<int32_t>(rng.bits() % static_cast<uint64_t>(shape.vocabulary)));
  const std::vector<std::span<const int32_t>> batch(ids.begin(), ids.end());
  const auto step = [&] {
    arena.reset();
    benchmark::DoNotOptimize(models::add_gradients(context, tape, *model.decoder, batch, again));
  };
  step();  // memory is touched for the first time
  for (auto _ : state) step();

  train::AdamW optimiser{{}};
  for (const models::Parameter& p : parameters.list())
    if (p.trained)
      optimiser.add(p.path, {p.values, static_cast<size_t>(p.count)}, {p.gradient, static_cast<size_t>(p.count)}, 0.1);
  double best = 1e9;
  for (int i = 0; i < 4; ++i)
    best = std::min(best, seconds_of([&] {
                      benchmark::DoNotOptimize(optimiser.gradient_norm(pool));
                      optimiser.step(pool, 1e-12, 1, true);
                    }));

  const models::Account account = models::account(spec);
  const auto embedding = static_cast<size_t>(layers::Place::input_embeddings);
  const double active = static_cast<double>(account.total_active() - account.active[embedding]);
  const double tokens = static_cast<double>(state.iterations() * shape.sequences * shape.tokens);
  const double peak = kernels::measure_f32_peak(context.kernels, pool);
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
  state.counters["Gflop/s"] = benchmark::Counter(6 * active * tokens / 1e9, benchmark::Counter::kIsRate);
  state.counters["of_peak"] = benchmark::Counter(6 * active * tokens / 1e9 / peak, benchmark::Counter::kIsRate);
  state.counters["optimiser_ms"] = 1e3 * best;
  state.counters["MB"] = static_cast<double>(tape.bytes() + arena.capacity()) / 1e6;
}

// Arguments: experts, experts per token, F, threads, activations computed again.
void training(benchmark::State& state) {
  run(state, {state.range(0), state.range(1), state.range(2)}, static_cast<int>(state.range(3)), state.range(4) != 0);
}

const int kThreads = 2;
BENCHMARK(training)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->ArgNames({"experts", "top", "ff", "threads", "again"})
    ->Args({8, 2, 1024, kThreads, 0})
    ->Args({64, 8, 256, kThreads, 0})
    ->Args({1, 1, 2048, kThreads, 0})
    ->Args({8, 2, 512, kThreads, 0})
    ->Args({32, 2, 512, kThreads, 0})
    ->Args({64, 2, 512, kThreads, 0})
    ->Args({8, 2, 1024, 1, 0})
    ->Args({8, 2, 1024, kThreads, 1});

// Experts at equal active parameters, with tokens for 256 an expert at least: 32 sequences.
void flat(benchmark::State& state) { run(state, {state.range(0), 2, 512, 384, 6, 6, 4096, 32}, kThreads, false); }
BENCHMARK(flat)->UseRealTime()->Unit(benchmark::kMillisecond)->ArgName("experts")->Arg(8)->Arg(32)->Arg(64);

// Arguments as those of training; products of bf16, where the CPU has them, and the share of the peak of f32.
void training_bf16(benchmark::State& state) {
  if (!kernels::select().gemm_bf16.run) return state.SkipWithError("these kernels have no bf16");
  run(state, {state.range(0), state.range(1), state.range(2)}, kThreads, false, ops::Precision::bf16);
}
BENCHMARK(training_bf16)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->ArgNames({"experts", "top", "ff"})
    ->Args({8, 2, 1024})
    ->Args({64, 8, 256})
    ->Args({1, 1, 2048});

// The recipes' sizes: makemoe (its experts are ReLU without a gate; here SwiGLU), and fine-grained experts.
void makemoe(benchmark::State& state) { run(state, {8, 2, 512, 128, 8, 4, 65, 16, 32}, kThreads, false); }
void fine_grained(benchmark::State& state) { run(state, {64, 8, 128, 256, 6, 4, 4096, 8, 256}, kThreads, false); }
BENCHMARK(makemoe)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(fine_grained)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
