#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/yaml.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/print_numbers.h"
#include "cli/print_surgery.h"
#include "cli/terminal.h"
#include "kernels/table.h"
#include "surgery/ensemble/make_ensemble.h"

namespace coterie::cli {

namespace {

struct GateCommand {
  std::string recipe, out;
  int threads = 0;
  bool json = false;
};

void describe_gate(const surgery::GateMade& made, const std::string& out) {
  const families::Gate& gate = made.gate;
  print(fmt::format("{}: a {} gate over {} models, {} of them for each {}", out, name(gate.kind), gate.count(),
                    gate.top_k, gate.kind == families::Gate::Kind::prompt ? "prompt" : "token"));
  if (!gate.reads()) return print("\n");
  const surgery::GateScore& score = made.score;
  const bool labels = score.alone.empty();
  print(fmt::format("; {} reads\n", made.models[static_cast<size_t>(gate.reader)]));
  print(fmt::format("fitted on {} {}, {} held out; on {}:\n", grouped(made.fitted),
                    gate.kind == families::Gate::Kind::prompt ? "prompts and windows" : "tokens",
                    grouped(made.held_out), made.held_out > 0 ? "these" : "what it was fitted on"));
  print(fmt::format("the model that is {} has most weight in {}\n", labels ? "right" : "best", percent(score.right)));
  std::string losses = fmt::format("cross-entropy of the {}: gated {:.4f}, all alike {:.4f}",
                                   labels ? "right model" : "next token", score.gated, score.uniform);
  for (size_t i = 0; i < score.alone.size(); ++i)
    losses += fmt::format(", {} alone {:.4f}", made.models[i], score.alone[i]);
  print(losses + "\nmean weights:");
  for (size_t i = 0; i < score.weights.size(); ++i)
    print(fmt::format("{} {} {:.3f}", i ? "," : "", made.models[i], score.weights[i]));
  print("\n");
}

int gate_command(const GateCommand& command) {
  const surgery::EnsembleRecipe recipe = surgery::read_ensemble_recipe(base::read_yaml(command.recipe), command.recipe);
  threads::Pool pool(command.threads);
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
  WritingProgress progress;
  const surgery::GateMade made =
      surgery::make_ensemble(context, recipe, command.recipe, command.out, progress.listener());
  progress.clear();
  if (command.json)
    print(to_json(made).dump(2) + "\n");
  else
    describe_gate(made, command.out);
  return 0;
}

}  // namespace

void add_gate(CLI::App& app, Action& action) {
  auto options = std::make_shared<GateCommand>();
  CLI::App* command = app.add_subcommand(
      "gate", "Make an ensemble: whole models and a gate that decides between them, by prompt or by token");
  command->add_option("RECIPE", options->recipe, "A YAML file: gate, models; docs/guides/gate.md")
      ->check(reads())
      ->required();
  command->add_option("-o,--output", options->out, "The folder to write; it must be new or empty")
      ->type_name("FOLDER")
      ->check(writes())
      ->required();
  add_threads(*command, options->threads);
  command->add_flag("--json", options->json, "Print the receipt; it is also written beside the gate");
  command->footer(
      "The models stay where they are and as they are, folders or GGUF files with one tokenizer; the folder that is\n"
      "written names them. run, chat, eval and serve take it in place of a model.\n"
      "gate: prompt lets one model answer each prompt; gate: token gives each next token the mixture of the\nmodels' "
      "probabilities, weighted anew for each token; gate: uniform weights all alike.\n"
      "Examples:\n"
      "  coterie gate two-voices.yaml -o ./two-voices\n"
      "  coterie run ./two-voices -p \"Shall I compare thee\" -n 32\n"
      "  coterie eval ./two-voices --text book.txt");
  command->callback([=, &action] { action = [options] { return gate_command(*options); }; });
}

}  // namespace coterie::cli
