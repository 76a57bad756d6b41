#include <benchmark/benchmark.h>

#include "base/json.h"
#include "base/rng.h"
#include "checkpoint/random_source.h"
#include "kernels/probe.h"
#include "models/account.h"
#include "models/families/family.h"
#include "models/model.h"
#include "models/parameters.h"
#include "models/shapes.h"

// Forward and backward of a small model in f32: tokens a second, and the share of the multiply-add peak, counted as
// 6 x active parameters (the input embedding aside, which is looked up) x tokens. No optimiser.
// Arguments: experts (1 = a dense FFN), experts per token, F, threads, activations computed again.
// d 384, 6 layers, 6 heads, V 4096, batch 8 x 256.
namespace {

using namespace coterie;

models::ModelSpec spec_of(int64_t experts, int64_t per_token, int64_t hidden) {
  base::Json config = {{"model_type", experts > 1 ? "mixtral" : "llama"},
                       {"vocab_size", 4096},
                       {"hidden_size", 384},
                       {"intermediate_size", hidden},
                       {"num_hidden_layers", 6},
                       {"num_attention_heads", 6},
                       {"num_key_value_heads", 6},
                       {"hidden_act", "silu"},
                       {"max_position_embeddings", 256},
                       {"rms_norm_eps", 1e-5},
                       {"rope_theta", 10000.0},
                       {"tie_word_embeddings", false}};
  if (experts > 1) config["num_local_experts"] = experts, config["num_experts_per_tok"] = per_token;
  return models::read_config(config, "benchmark", true);
}

void training(benchmark::State& state) {
  constexpr int64_t kSequences = 8, kTokens = 256;
  const models::ModelSpec spec = spec_of(state.range(0), state.range(1), state.range(2));
  models::RandomModel random = models::random_model(spec, tensor::DType::f32, "benchmark");
  models::Model model =
      models::open_model(checkpoint::random_source(std::move(random.tensors), std::move(random.metadata), 1));
  models::Parameters parameters(*model.decoder);
  threads::Pool pool(static_cast<int>(state.range(3)));
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
  ops::Tape tape(arena, parameters.gradients());
  base::Rng rng(5);
  std::vector<std::vector<int32_t>> ids(kSequences);
  for (auto& sequence : ids)
    for (int64_t t = 0; t < kTokens; ++t) sequence.push_back(static_cast<int32_t>(rng.bits() % 4096));
  const std::vector<std::span<const int32_t>> batch(ids.begin(), ids.end());
  for (auto _ : state) {
    arena.reset();
    benchmark::DoNotOptimize(models::add_gradients(context, tape, *model.decoder, batch, state.range(4) != 0));
  }
  const models::Account account = models::account(spec);
  const auto embedding = static_cast<size_t>(layers::Place::input_embeddings);
  const double active = static_cast<double>(account.total_active() - account.active[embedding]);
  const double tokens = static_cast<double>(state.iterations()) * kSequences * kTokens;
  const double peak = kernels::measure_f32_peak(context.kernels, pool);
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
  state.counters["Gflop/s"] = benchmark::Counter(6 * active * tokens / 1e9, benchmark::Counter::kIsRate);
  state.counters["of_peak"] = benchmark::Counter(6 * active * tokens / 1e9 / peak, benchmark::Counter::kIsRate);
  state.counters["MB"] = static_cast<double>(tape.bytes() + arena.capacity()) / 1e6;
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

}  // namespace
