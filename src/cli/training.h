#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/terminal.h"

namespace coterie::cli {

/// Options of train and tune.
struct TrainOptions {
  std::string recipe, out, tuned;  // tuned: the model; empty: the recipe makes one
  std::string run;                 // the folder behind --resume; empty: that of `out`
  std::vector<std::string> variants, settings, extensions;
  std::optional<int64_t> from;  // go on from the checkpoint of this step
  bool resume = false, all = false, json = false, tunes = false;
  int threads = 0;
  int64_t shards = 0;  // 0: those of the run that goes on, else as many as ranks

  /// --output, --resume, --extend, --from, --variant, --all, --set, --shards, --threads, --json
  void add_run(CLI::App& app);
  /// After parsing: what follows --resume is a run's folder, or else the first of MODEL and RECIPE, so that
  /// `--resume recipe.yaml` says what `recipe.yaml --resume` does. Throws CLI::ParseError for what is missing, and for
  /// options that a run which goes on by its own recipe does not take.
  void sort_names();
};

/// "1,024 of them are trained: 512 in experts, …" from counts by place.
std::string trainable_line(const base::Json& places);

/// The variants that the options name; "" alone: the recipe as it is. Throws bad_input for --all where there are none.
std::vector<std::string> variants_asked_for(const TrainOptions& options);

/// Trains all variants that the options name, or the recipe as it is, or goes on with the runs in a folder, and says on
/// the screen how it goes. Throws interrupted.
void train_variants(const TrainOptions& options);

}  // namespace coterie::cli
