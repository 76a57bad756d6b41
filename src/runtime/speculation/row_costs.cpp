#include "runtime/speculation/row_costs.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/cpu.h"
#include "base/error.h"
#include "base/json.h"
#include "families/gguf/gguf_metadata.h"
#include "families/random_model.h"
#include "families/shapes.h"
#include "kernels/table.h"
#include "runtime/bench.h"
#include "runtime/machine_file.h"
#include "runtime/shape_model.h"

namespace coterie::runtime {

namespace {

constexpr const char* kLike = "llama-3.2-1b";  // a dense model, all of whose sizes are replaced
constexpr double kBytes = 0.2e9;               // of layers that are measured, where the model has as many
constexpr int64_t kTokens = 12, kRounds = 5, kDepth = 64, kHeadDim = 64, kBlock = 256;
constexpr int kTries = 2;
constexpr double kUpset = 1.25;  // times what so many steps of one row cost

int64_t rounded_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

int64_t parameters_at(const models::Account& account, std::initializer_list<models::Place> places) {
  int64_t sum = 0;
  for (const models::Place place : places) sum += account.active[static_cast<size_t>(place)];
  return sum;
}

/// A new folder for temporary files, which goes with what is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "coterie-XXXXXX").string();
    if (!::mkdtemp(name.data()))
      base::fail(base::ErrorKind::io, name, "a folder for a temporary file cannot be made: {}", std::strerror(errno));
    path = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path path;
};

/// In a file, since weights that lie in none are not repacked, and their steps cost otherwise.
families::Model dense_model(const DenseShape& shape, const std::filesystem::path& folder) {
  models::ModelSpec spec = families::shape(kLike, 1);
  spec.width = shape.width, spec.vocabulary = shape.vocabulary, spec.tied_embeddings = shape.tied;
  spec.context = 4 * kDepth;
  models::BlockSpec block = spec.blocks.front();
  auto& attention = std::get<layers::AttentionSpec>(block.mixer);
  attention.heads = shape.heads, attention.kv_heads = shape.kv_heads;
  attention.head_dim = attention.value_dim = attention.rope->dims = shape.head_dim;
  attention.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  attention.rope->scaling = layers::RopeSpec::Scaling::none, attention.rope->factor = 1;
  std::get<layers::DenseFfnSpec>(block.ffn).hidden = shape.hidden;
  spec.blocks.assign(static_cast<size_t>(shape.layers), block);
  models::check(spec, "the shape that is measured");
  families::RandomModel random = families::random_model(spec, shape.format, "steps of several rows");
  if (shape.output_format)
    for (checkpoint::RandomTensor& tensor : random.tensors)
      if (tensor.name == (shape.tied ? "token_embd.weight" : "output.weight"))
        tensor.dtype = families::fitting_format(*shape.output_format, shape.width);
  const std::filesystem::path path = folder / "rows.gguf";
  write_random_model(random, 1, path);
  return families::open_model(path);
}

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

DenseShape dense_shape(const models::ModelSpec& spec, const models::Account& account, tensor::DType format,
                       std::optional<tensor::DType> output_format) {
  using models::Place;
  const auto blocks = std::ssize(spec.blocks);
  const int64_t mixer = parameters_at(account, {Place::mixer}),
                ffn = parameters_at(account, {Place::experts, Place::shared_experts, Place::dense_ffn, Place::router});
  DenseShape shape;
  shape.width = spec.width, shape.tied = spec.tied_embeddings;
  shape.format = format, shape.output_format = output_format;
  const layers::AttentionSpec* attention = nullptr;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* found = std::get_if<layers::AttentionSpec>(&block.mixer)) attention = found;
  const bool alike = attention && std::all_of(spec.blocks.begin(), spec.blocks.end(), [](const auto& block) {
                       return std::holds_alternative<layers::AttentionSpec>(block.mixer);
                     });
  if (alike) {
    shape.heads = attention->heads, shape.kv_heads = attention->kv_heads, shape.head_dim = attention->head_dim;
  } else {
    // Queries and output of so many heads, and keys and values of a quarter of them.
    shape.head_dim = kHeadDim;
    shape.heads = std::max<int64_t>(4, rounded_up(mixer / blocks * 2 / (5 * kHeadDim * spec.width), 4));
    shape.kv_heads = shape.heads / 4;
  }
  shape.hidden = std::max(kBlock, rounded_up(ffn / blocks / (3 * spec.width), std::min<int64_t>(kBlock, spec.width)));
  const double bytes = static_cast<double>(mixer + ffn) * tensor::bits_per_value(format) / 8;
  shape.layers = std::clamp(static_cast<int64_t>(std::ceil(static_cast<double>(blocks) * kBytes / bytes)),
                            std::min<int64_t>(2, blocks), blocks);
  shape.vocabulary = std::max(kBlock, rounded_up(spec.vocabulary * shape.layers / blocks, 64));
  return shape;
}

RowCosts row_costs(int threads, const DenseShape& shape, int64_t most, bool again) {
  base::require(most >= 2, "row costs", "of {} rows", most);
  const std::string name = fmt::format(
      "{} · {} · {} threads · steps of several rows in {}{} · {} layers of {}, heads {} {} {}, ffn {}, vocabulary {}{}",
      base::cpu().model, kernels::select().isa, threads, tensor::name(shape.format),
      shape.output_format ? fmt::format(" and {}", tensor::name(*shape.output_format)) : "", shape.layers, shape.width,
      shape.heads, shape.kv_heads, shape.head_dim, shape.hidden, shape.vocabulary, shape.tied ? ", tied" : "");
  if (const auto known = again ? std::nullopt : remembered(name, most)) return RowCosts(*known);
  EngineOptions options;
  options.threads = threads, options.drafted = most - 1;
  const TemporaryFolder folder;
  Engine engine(dense_model(shape, folder.path), options);
  BenchOptions bench_options;
  bench_options.prompt = 0, bench_options.generate = kTokens, bench_options.repeat = kRounds;
  bench_options.depth = kDepth;
  // Nothing is accepted: so many steps of each number of rows.
  bench_options.drafted = most - 1, bench_options.acceptance = 0;
  // Rows one by one cost no more than so many steps: what comes out dearer was upset by other work on the machine.
  std::vector<double> steps;
  bool plausible = false;
  for (int round = 0; round < kTries && !plausible; ++round) {
    const BenchResult result = bench(engine, bench_options);
    steps = {1}, plausible = true;
    for (const SpeculatedDecode& each : result.speculated) {
      const double step = each.step_seconds / result.plain_step_seconds;
      const auto rows = static_cast<double>(1 + each.drafted);
      plausible = plausible && step <= kUpset * rows;
      steps.push_back(std::clamp(step, steps.back(), rows));
    }
  }
  if (plausible && !base::cpu().emulated) remember(name, steps);
  return RowCosts(std::move(steps));
}

}  // namespace coterie::runtime
