#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/terminal.h"

namespace coterie::cli {

/// Options of train and tune.
struct TrainOptions {
  std::string recipe, out, tuned;  // tuned: the model; empty: the recipe makes one
  std::vector<std::string> variants, settings;
  bool resume = false, all = false, json = false;
  int threads = 0;

  void add_run(CLI::App& app);  // --output, --resume, --variant, --all, --set, --threads, --json
};

/// Trains one variant into `out` and says on the screen how it goes. Whether it was finished; else it was interrupted.
bool train_one(const TrainOptions& options, const std::string& variant, const std::filesystem::path& out,
               const InterruptFlag& interrupt);

/// "1,024 of them are trained: 512 in experts, …" from counts by place.
std::string trainable_line(const base::Json& places);

/// The variants that the options name; "" alone: the recipe as it is. Throws bad_input for --all where there are none.
std::vector<std::string> variants_asked_for(const TrainOptions& options);

/// All variants that the options name, or the recipe as it is. Throws interrupted.
void train_variants(const TrainOptions& options);

}  // namespace coterie::cli
