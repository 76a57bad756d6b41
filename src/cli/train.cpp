#include <memory>

#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/training.h"

namespace coterie::cli {

void add_train(CLI::App& app, Action& action) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Train a model from scratch as a recipe says");
  command->add_option("RECIPE", options->recipe, "The YAML file; docs/guides/train.md lists its keys")->check(reads());
  options->add_run(*command);
  command->footer(
      "The run's folder holds its log (log.jsonl, for coterie report) and checkpoints: each is a Hugging Face model\n"
      "with the optimiser's state beside it. Ctrl-C finishes the step, writes a checkpoint and stops.\n"
      "Examples:\n"
      "  coterie train recipes/makemoe.yaml\n"
      "  coterie train --resume runs/makemoe\n"
      "  coterie train --resume runs/makemoe --extend steps=3000\n"
      "  coterie train recipes/collapse.yaml --all -o runs/collapse && coterie report runs/collapse/*");
  command->callback([=, &action] {
    options->sort_names();
    action = [options] {
      train_variants(*options);
      return 0;
    };
  });
}

}  // namespace coterie::cli
