#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "models/account.h"
#include "ops/context.h"
#include "train/recipe.h"

namespace coterie::train {

class Team;

struct TrainerOptions {
  std::filesystem::path run;         // the folder to write into
  bool resume = false;               // go on from its newest checkpoint
  double peak_flops = 0;             // multiply-adds × 2 a second that the machine was measured to do in the recipe's
                                     // precision; 0: not known
  std::optional<int64_t> from = {};  // or from the checkpoint of this step; those after it are removed
  // The ranks that train this run together, each with a trainer of its own; must outlive it. Null: one alone.
  Team* team = nullptr;
};

/// Called with what happens: sentences about what is done before the first step, events as the log has them.
struct TrainerListener {
  std::function<void(const std::string&)> note = [](const std::string&) {};
  std::function<void(const base::Json&)> event = [](const base::Json&) {};
};

/// A training run from a recipe to its last checkpoint.
///
/// The bits of a run depend on its recipe, the instruction set and nothing else: not on the number of threads, not on
/// that of ranks, and not on where it was interrupted. Of several ranks all make a trainer and call the same; rank 0
/// alone writes, and tells its listener.
class Trainer {
 public:
  /// Reads or makes vocabulary and tokens, builds the model and draws its weights, or takes a checkpoint up again.
  /// Throws bad_input when the folder holds a run and `resume` is not set, or one of another recipe; out_of_memory
  /// before it takes what there is not; and what reading the data throws. Where the checkpoint is damaged the error
  /// names the one before it. The pool and the kernels must outlive it.
  Trainer(Recipe recipe, const TrainerOptions& options, threads::Pool& pool, const kernels::KernelTable& kernels,
          TrainerListener listener = {});
  ~Trainer();

  /// Trains until the last step, or until `stop` is raised: then the step in hand is finished and a checkpoint written.
  /// Throws bad_input, naming step and layer, when loss or gradient are not numbers; the last checkpoint stays. Returns
  /// whether the run is finished.
  bool run(const std::atomic<bool>& stop);

  const models::Account& account() const;
  /// What is to be known about the model (routing that is not causal, keys of its config that training here does not
  /// go by), in sentences.
  const std::vector<std::string>& warnings() const;
  int64_t step() const;
  /// Whether it has come to its end already, so that run() would do nothing.
  bool finished() const;
  /// Whether the recipe's patience ended it before its last step.
  bool stopped_early() const;
  /// The folder of the best evaluation, where the recipe has patience, else the newest checkpoint's; empty before the
  /// first.
  std::filesystem::path result() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coterie::train
