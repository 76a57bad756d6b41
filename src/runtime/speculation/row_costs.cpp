#include "runtime/speculation/row_costs.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/cpu.h"
#include "base/error.h"
#include "base/json.h"
#include "kernels/table.h"
#include "runtime/bench.h"
#include "runtime/machine_file.h"
#include "runtime/shape_model.h"

namespace coterie::runtime {

namespace {

// Two layers and the output embeddings of Llama 3.2 1B: matrices as large as those of models that are worth a draft.
constexpr const char* kShape = "llama-3.2-1b";
constexpr int64_t kLayers = 2, kTokens = 12, kRounds = 3, kDepth = 64;

std::optional<std::vector<double>> remembered(const std::string& name, int64_t most) {
  const base::Json entry = recall(name);
  if (!entry.is_array() || std::ssize(entry) < most) return {};
  std::vector<double> steps;
  for (const base::Json& step : entry) {
    if (!step.is_number() || !(step.get<double>() > 0)) return {};
    steps.push_back(step.get<double>());
  }
  return steps;
}

}  // namespace

double RowCosts::of(double rows) const {
  base::require(!steps_.empty(), "row costs", "none");
  const auto last = static_cast<double>(std::ssize(steps_));
  if (rows <= 1) return 1;
  // Beyond what was measured: along the last of it.
  const double at = std::min(std::floor(rows), last - 1);
  if (at < 1) return 1 + (rows - 1) * (steps_.front() - 1);
  const double before = steps_[static_cast<size_t>(at) - 1], after = steps_[static_cast<size_t>(at)];
  return before + (rows - at) * (after - before);
}

RowCosts row_costs(int threads, tensor::DType format, int64_t most, bool again) {
  base::require(most >= 2, "row costs", "of {} rows", most);
  const std::string name = fmt::format("{} · {} · {} threads · steps of several rows in {}", base::cpu().model,
                                       kernels::select().isa, threads, tensor::name(format));
  if (const auto known = again ? std::nullopt : remembered(name, most)) return RowCosts(*known);
  EngineOptions options;
  options.threads = threads, options.drafted = most - 1;
  Engine engine(shape_model({.shape = kShape, .layers = kLayers, .quant = format}, {}), options);
  BenchOptions bench_options;
  bench_options.prompt = 0, bench_options.generate = kTokens, bench_options.repeat = kRounds;
  bench_options.depth = kDepth;
  // Nothing is accepted: so many steps of each number of rows.
  bench_options.drafted = most - 1, bench_options.acceptance = 0;
  const BenchResult result = bench(engine, bench_options);
  std::vector<double> steps = {1};
  for (const SpeculatedDecode& each : result.speculated)
    steps.push_back(std::max(each.step_seconds / result.plain_step_seconds, steps.back()));
  if (!base::cpu().emulated) remember(name, steps);
  return RowCosts(std::move(steps));
}

}  // namespace coterie::runtime
