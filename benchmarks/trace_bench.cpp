#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numeric>

#include "base/clock.h"
#include "base/median.h"
#include "base/rng.h"
#include "lens/trace.h"
#include "runtime/engine.h"

// What a trace costs: windows of tokens read with and without one, in turn, by prompt (512) and token by token (1); all
// windows go into one trace. `ratio` is the median over the windows' pairs of traced ÷ plain with its 95 % interval:
// what each token costs. `fixed_ms` is what a trace costs once, however long: making the file, and flushing and naming
// it at the end. `run` is both together over the whole run of `tokens` tokens. COTERIE_BENCH_MODEL names another model.
namespace {

using namespace coterie;

double read(runtime::Engine& engine, std::span<const int32_t> ids, int64_t step, int64_t sequence,
            lens::TraceWriter* writer) {
  const base::Stopwatch clock;
  runtime::KvCache cache = engine.make_cache();
  while (cache.length() < std::ssize(ids)) {
    const int64_t first = cache.length();
    const auto piece =
        ids.subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(step, std::ssize(ids) - first)));
    const models::SequenceStep one{
        .ids = piece,
        .state = &cache,
        .logits = step == 1 ? models::SequenceStep::Logits::last : models::SequenceStep::Logits::none,
        .length = std::ssize(ids)};
    engine.evaluate({&one, 1}, {.observer = writer ? &writer->observer() : nullptr});
    if (writer) writer->add(piece, sequence, first);
  }
  return clock.seconds();
}

void Trace(benchmark::State& state) {
  const char* named = std::getenv("COTERIE_BENCH_MODEL");
  runtime::Engine engine(families::open_model(named ? named : "models/coterie-small.gguf"), runtime::EngineOptions());
  engine.move_all_weights();
  const int64_t step = state.range(0), window = std::min<int64_t>(engine.context_size(), step == 1 ? 128 : 512);
  const int64_t pairs = state.max_iterations;
  std::vector<int32_t> ids;
  base::Rng rng(1);
  for (int64_t i = 0; i < window; ++i)
    ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint32_t>(engine.spec().vocabulary))));
  const std::filesystem::path file = std::filesystem::temp_directory_path() / "coterie_trace_bench.safetensors";
  read(engine, ids, step, 0, nullptr);
  std::vector<double> ratios;
  double all_plain = 0, all_traced = 0;
  base::Stopwatch clock;
  lens::TraceWriter writer(file, lens::router_shape(engine.spec()), pairs * window, {});
  double fixed = clock.seconds();
  for (auto _ : state) {
    const auto sequence = std::ssize(ratios);
    const bool first = sequence % 2 == 0;  // which of both goes first changes from pair to pair
    double plain = 0, traced = 0;
    for (const bool with : {first, !first})
      (with ? traced : plain) = read(engine, ids, step, sequence, with ? &writer : nullptr);
    ratios.push_back(traced / plain);
    all_plain += plain, all_traced += traced;
  }
  clock = {};
  writer.commit();
  fixed += clock.seconds();
  std::filesystem::remove(file);
  std::sort(ratios.begin(), ratios.end());
  const auto n = static_cast<double>(ratios.size()), spread = 1.96 * std::sqrt(n) / 2;
  const auto at = [&](double i) { return ratios[static_cast<size_t>(std::clamp(i, 0.0, n - 1))]; };
  state.counters["ratio"] = base::median(ratios);
  state.counters["low"] = at(std::floor(n / 2 - spread)), state.counters["high"] = at(std::ceil(n / 2 + spread));
  state.counters["fixed_ms"] = 1000 * fixed, state.counters["run"] = (all_traced + fixed) / all_plain;
  state.counters["tokens"] = static_cast<double>(pairs * window);
  state.counters["us_token"] = 1e6 * all_plain / static_cast<double>(pairs * window);
}
BENCHMARK(Trace)->Arg(1)->Arg(512)->Iterations(60)->Unit(benchmark::kMillisecond);

}  // namespace
