#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/clock.h"
#include "base/median.h"
#include "base/rng.h"
#include "lens/trace.h"
#include "runtime/engine.h"

// What a trace costs: the same tokens read with and without one, in turn, by prompt and token by token. The counters
// say the median of the ratios and its 95 % interval. COTERIE_BENCH_MODEL names another model.
namespace {

using namespace coterie;

double read(runtime::Engine& engine, std::span<const int32_t> ids, int64_t step, lens::TraceWriter* writer) {
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
    if (writer) writer->add(piece, 0, first);
  }
  if (writer) writer->commit();
  return clock.seconds();
}

void Trace(benchmark::State& state) {
  const char* named = std::getenv("COTERIE_BENCH_MODEL");
  runtime::Engine engine(families::open_model(named ? named : "models/coterie-small.gguf"), runtime::EngineOptions());
  engine.move_all_weights();
  const int64_t step = state.range(0), tokens = std::min<int64_t>(engine.context_size(), 250);
  std::vector<int32_t> ids;
  base::Rng rng(1);
  for (int64_t i = 0; i < tokens; ++i)
    ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint32_t>(engine.spec().vocabulary))));
  const std::filesystem::path file = std::filesystem::temp_directory_path() / "coterie_trace_bench.safetensors";
  read(engine, ids, step, nullptr);
  std::vector<double> ratios;
  for (auto _ : state) {
    const bool first = ratios.size() % 2 == 0;  // which of both goes first changes from pair to pair
    double plain = 0, traced = 0;
    for (const bool with : {first, !first}) {
      if (!with) {
        plain = read(engine, ids, step, nullptr);
        continue;
      }
      lens::TraceWriter writer(file, lens::router_shape(engine.spec()), tokens, {});
      traced = read(engine, ids, step, &writer);
    }
    ratios.push_back(traced / plain);
  }
  std::filesystem::remove(file);
  std::sort(ratios.begin(), ratios.end());
  const auto n = static_cast<double>(ratios.size()), spread = 1.96 * std::sqrt(n) / 2;
  const auto at = [&](double i) { return ratios[static_cast<size_t>(std::clamp(i, 0.0, n - 1))]; };
  state.counters["ratio"] = base::median(ratios);
  state.counters["low"] = at(std::floor(n / 2 - spread)), state.counters["high"] = at(std::ceil(n / 2 + spread));
}
BENCHMARK(Trace)->Arg(1)->Arg(512)->Iterations(60)->Unit(benchmark::kMillisecond);

}  // namespace
