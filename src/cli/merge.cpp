#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/yaml.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/print_numbers.h"
#include "cli/print_surgery.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "kernels/table.h"
#include "surgery/merge/merge_models.h"

namespace coterie::cli {

namespace {

struct MergeCommand {
  std::string recipe, out, dtype, text;
  surgery::MergeOptions options;
  double shard_gb = 5;
  int threads = 0;
  bool no_check = false, json = false, plan = false;
};

int print_plan(const surgery::MergePlan& plan, bool json) {
  for (const std::string& note : plan.notes) print_warning(note);
  if (json) {
    print(base::Json{{"model_type", plan.model_type},
                     {"parameters", plan.parameters},
                     {"active_parameters", plan.active_parameters},
                     {"base_model_parameters", plan.base_parameters}}
              .dump(2) +
          "\n");
    return 0;
  }
  print(fmt::format("{}: parameters {} ({}), {} ({}) of them active for a token; the base model has {} ({})\n",
                    plan.model_type, grouped(plan.parameters), abbreviated(plan.parameters),
                    grouped(plan.active_parameters), abbreviated(plan.active_parameters), grouped(plan.base_parameters),
                    abbreviated(plan.base_parameters)));
  return 0;
}

int merge_command(MergeCommand command) {
  surgery::MergeOptions& options = command.options;
  options.dtype = output_dtype(command.dtype);
  options.shard_bytes = shard_bytes(command.shard_gb);
  options.check = !command.no_check;
  if (!command.text.empty()) options.text = text_to_compare(command.text);
  const base::Json recipe = base::read_yaml(command.recipe);
  if (!recipe.is_object())
    base::fail(base::ErrorKind::bad_input, command.recipe, "expected keys: base_model, experts or merge_method, …");
  const bool experts = surgery::is_moe_recipe(recipe);
  if (!experts && !recipe.contains("merge_method")) {
    std::vector<std::string> known = surgery::merge_recipe_keys();
    for (std::string& key : surgery::moe_recipe_keys())
      if (std::find(known.begin(), known.end(), key) == known.end()) known.push_back(std::move(key));
    base::JsonReader(recipe, command.recipe).expect(known);
    throw base::Error(base::ErrorKind::bad_input, command.recipe, "has neither experts nor merge_method",
                      "experts: dense models become the experts of one mixture; merge_method: models become one");
  }

  surgery::MergeSources sources(command.recipe);
  if (command.plan) {
    if (!experts)
      base::fail(base::ErrorKind::bad_input, "--plan",
                 "only counts mixtures of experts: merged whole models have as many parameters as each of them");
    return print_plan(surgery::plan_experts(surgery::read_moe_recipe(recipe, command.recipe), sources), command.json);
  }
  if (command.out.empty()) throw base::Error(base::ErrorKind::bad_input, "--output", "is missing", "-o FOLDER");

  threads::Pool pool(command.threads);
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
  WritingProgress progress;
  options.on_progress = progress.listener();
  const surgery::Merged done = experts
                                   ? surgery::merge_experts(context, surgery::read_moe_recipe(recipe, command.recipe),
                                                            sources, command.out, options)
                                   : surgery::merge_models(context, surgery::read_merge_recipe(recipe, command.recipe),
                                                           sources, command.out, options);
  progress.clear();
  print_written(done, command.out, command.json, "beside the base model", "the base model");
  for (size_t e = 0; !command.json && e < done.routing.size(); ++e) {
    std::string line = fmt::format("prompts of expert {}: choices", e);
    for (const double share : done.routing[e]) line += " " + percent(share);
    print(line + "\n");
  }
  return 0;
}

}  // namespace

void add_merge(CLI::App& app, Action& action) {
  auto options = std::make_shared<MergeCommand>();
  CLI::App* command = app.add_subcommand("merge", "Merge models: as the experts of one mixture, or weight by weight");
  command->add_option("RECIPE", options->recipe, "A YAML file in the form of mergekit's; docs/guides/merge.md")
      ->check(reads())
      ->required();
  auto* out = command->add_option("-o,--output", options->out, "The folder to write; it must be new or empty")
                  ->type_name("FOLDER")
                  ->check(writes());
  command
      ->add_flag("--plan", options->plan,
                 "Only count what the mixture would have: sources may be config.json files, without weights")
      ->excludes(out);
  command
      ->add_option("--seed", options->options.seed,
                   "The seed of random gates, of noise, and of the masks of DARE and DELLA")
      ->capture_default_str();
  add_output_options(*command, options->dtype, options->shard_gb);
  add_check_options(*command, options->text, options->options.tokens, options->no_check);
  add_threads(*command, options->threads);
  command->add_flag("--json", options->json, "Print the receipt; it is also written beside the model");
  command->footer(
      "A recipe with experts makes a mixture of dense models: one gives attention, norms and embeddings, each gives "
      "its\n"
      "FFNs, and the router is made of prompts. One with merge_method makes one model of several of its shape\n"
      "(linear, slerp, task_arithmetic, ties, dare_linear, dare_ties, breadcrumbs, breadcrumbs_ties, della,\n"
      "della_linear, model_stock, nearswap) or puts their layers one after the other (passthrough).\n"
      "Examples:\n"
      "  coterie merge two-tales.yaml -o ./two-tales\n"
      "  coterie merge ties.yaml -o ./merged --dtype bf16 --seed 7\n"
      "  coterie merge recipes/merge/yi-34b-x2.yaml --plan");
  command->callback([=, &action] { action = [options] { return merge_command(*options); }; });
}

}  // namespace coterie::cli
