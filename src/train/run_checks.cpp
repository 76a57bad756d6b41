#include "train/run_checks.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/memory.h"
#include "base/plural.h"
#include "models/account.h"
#include "train/memory_forecast.h"

namespace coterie::train {

using base::ErrorKind;

void require_precision(const Recipe& recipe, const kernels::KernelTable& kernels) {
  if (recipe.precision != ops::Precision::bf16 || kernels.matmul.bf16.run != nullptr) return;
  throw base::Error(ErrorKind::unsupported, recipe.name,
                    fmt::format("training.precision is bf16, which the {} kernels do not multiply", kernels.isa),
                    "`settings` training.precision=f32 trains on this CPU; bf16 needs one with AVX512_BF16");
}

void require_ranks(const Recipe& recipe, int64_t ranks) {
  if (recipe.prediction_loss > 0 && (ranks > 1 || recipe.shards > 1))
    throw base::Error(ErrorKind::unsupported, recipe.name,
                      "a head for multi-token prediction is trained by one rank, in one shard",
                      "leave out training.prediction_loss, or train without a launcher and without training.shards");
  if (recipe.shards % ranks == 0) return;
  throw base::Error(
      ErrorKind::bad_input, recipe.name,
      fmt::format("{} cannot share {} evenly", base::plural(ranks, "rank"), base::plural(recipe.shards, "shard")),
      "a run keeps the shards (training.shards) that it began with: start as many ranks as divide them, "
      "or begin another run with other shards");
}

void require_room(const Recipe& recipe, const models::ModelSpec& spec, double share) {
  const models::Account account = models::account(spec);
  const double experts = static_cast<double>(account.held[static_cast<size_t>(models::Place::experts)]);
  const int64_t tokens = recipe.micro_batch * recipe.sequence;
  const int64_t held = account.total() - static_cast<int64_t>(experts * (1 - share));
  const MemoryForecast forecast = forecast_memory(spec, recipe.tune ? 0 : held, tokens, recipe.recompute);
  const std::string model = recipe.tune ? "" : fmt::format("a model of {} ", base::plural(held, "parameter"));
  base::require_memory(
      forecast.total(),
      fmt::format("{}: training {}in micro-batches of {}", recipe.name, model, base::plural(tokens, "token")),
      "a smaller micro_batch or sequence, recompute: true, or a smaller model takes less");
}

std::optional<int64_t> checkpoint_to_take(const RunFolder& folder, const Recipe& recipe, bool resumed,
                                          std::optional<int64_t> from) {
  const std::vector<int64_t> steps = resumed ? folder.checkpoints() : std::vector<int64_t>();
  if (from && std::find(steps.begin(), steps.end(), *from) == steps.end())
    throw base::Error(ErrorKind::not_found, folder.path().string(), fmt::format("has no checkpoint of step {}", *from),
                      steps.empty() ? "it has none" : fmt::format("it has those of {}", fmt::join(steps, ", ")));
  if (!recipe.extended.empty() && !resumed)
    throw base::Error(ErrorKind::bad_input, "extend",
                      "changes a run that has begun, and there is none in " + folder.path().string(),
                      "change the recipe, or replace its values with `settings`");
  if (from) return from;
  return steps.empty() ? std::nullopt : std::optional(steps.back());
}

void offer_earlier(const base::Error& error, const std::filesystem::path& run, std::optional<int64_t> from) {
  const RunFolder folder(run);
  std::optional<int64_t> taken = from, before;
  const std::vector<int64_t> steps = folder.checkpoints();
  if (!taken && !steps.empty()) taken = steps.back();
  if (!taken || !error.where().starts_with(folder.checkpoint(*taken).string())) return;
  for (const int64_t step : steps)
    if (step < *taken) before = step;
  throw base::Error(
      error.kind(), error.where(), error.message(),
      before ? fmt::format("the checkpoint before is that of step {0}: `from` {0} beside `resume` goes on from it",
                           *before)
             : "there is no checkpoint before it: remove the folder and begin anew, or put the file back");
}

}  // namespace coterie::train
