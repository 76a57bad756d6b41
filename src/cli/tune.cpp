#include <fmt/format.h>

#include <memory>

#include "base/json.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/print_numbers.h"
#include "cli/terminal.h"
#include "cli/training.h"
#include "models/account.h"
#include "train/recipe.h"
#include "train/tuned_model.h"

namespace coterie::cli {

namespace {

using base::Json;

struct TuneOptions : TrainOptions {
  bool dry_run = false;
};

// What would be trained, and whether it can be.
void show(const TuneOptions& options, const std::string& variant) {
  const train::Recipe recipe = train::read_recipe(options.recipe, {variant, options.settings, options.tuned});
  train::TunedModel tuned(*recipe.tune, recipe.seed, {}, recipe.prediction_loss);
  const models::Account account = models::account(tuned.decoder().spec());
  const Json trainable = tuned.trainable();
  Json held = Json::object();
  for (int p = 0; p < models::kPlaces; ++p)
    held[std::string(models::name(static_cast<models::Place>(p)))] = account.held[static_cast<size_t>(p)];
  if (options.json)
    print(Json{{"name", recipe.name}, {"parameters", account.total()}, {"places", held}, {"trainable", trainable}}
              .dump() +
          "\n");
  else
    print(fmt::format("{}: {} parameters; {}\n", recipe.name, grouped(account.total()), trainable_line(trainable)));
}

int tune_command(const TuneOptions& options) {
  if (!options.dry_run) {
    train_variants(options);
    return 0;
  }
  for (const std::string& variant : variants_asked_for(options)) show(options, variant);
  return 0;
}

}  // namespace

void add_tune(CLI::App& app, Action& action) {
  auto options = std::make_shared<TuneOptions>();
  CLI::App* command =
      app.add_subcommand("tune", "Fine-tune a model as a recipe says: its weights, or an adapter (LoRA)");
  options->tunes = true;
  command->add_option("MODEL", options->tuned, "A folder with config.json and safetensors, or a .gguf file")
      ->check(reads());
  command->add_option("RECIPE", options->recipe, "The YAML file; docs/guides/tune.md lists its keys")->check(reads());
  options->add_run(*command);
  command->add_flag("--dry-run", options->dry_run, "Only print how many parameters would be trained at each place")
      ->excludes("--resume");
  command->footer(
      "The model stays as it is. With lora the run's checkpoints are adapters as the peft library writes them, for\n"
      "--adapter and coterie merge-adapter; with full they are models. Weights of a .gguf stay in their blocks.\n"
      "Examples:\n"
      "  coterie tune ./OLMoE-1B-7B recipe.yaml --dry-run\n"
      "  coterie tune model-q4_k.gguf recipe.yaml -o runs/tuned\n"
      "  coterie tune --resume runs/tuned\n"
      "  coterie run model-q4_k.gguf --adapter runs/tuned/checkpoints/step-0000300 -p \"Once upon a time\"\n"
      "With patience in the recipe the adapter to take is runs/tuned/best.");
  command->callback([=, &action] {
    options->sort_names();
    action = [options] { return tune_command(*options); };
  });
}

}  // namespace coterie::cli
