#include "surgery/merge/merge_adapter.h"
#include "cli/command_files.h"

#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "base/plural.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"

namespace coterie::cli {

namespace {

struct MergeAdapterCommand {
  ModelOptions model;
  std::string out;
  bool json = false, force = false;
};

int merge_adapter_command(const MergeAdapterCommand& command) {
  refuse_existing_output(command.out, command.force);
  const families::Model model = families::open_model(command.model.model, command.model.open_options());
  warn_about(model);
  Progress progress;
  const InterruptFlag interrupt;
  const surgery::MergedAdapter merged = surgery::merge_adapter(model, command.out, [&](std::string_view tensor) {
    if (interrupt.raised())
      throw base::Error(base::ErrorKind::interrupted, command.out, "interrupted: nothing was written");
    progress.show(std::string(tensor));
  });
  progress.clear();
  if (command.json)
    print(base::Json{{"output", command.out}, {"tensors", merged.tensors}, {"changed", merged.changed}}.dump(2) + "\n");
  else
    print_note(fmt::format("{}: {}, the adapter went into {} of them", command.out,
                           base::plural(merged.tensors, "tensor"), merged.changed));
  return 0;
}

}  // namespace

void add_merge_adapter(CLI::App& app, Action& action) {
  auto options = std::make_shared<MergeAdapterCommand>();
  CLI::App* command = app.add_subcommand("merge-adapter", "Write a model with an adapter's changes in its weights");
  command->add_option("MODEL", options->model.model, "A folder with config.json and safetensors, or a .gguf file")
      ->check(reads())
      ->required();
  command->add_option("ADAPTER", options->model.adapter, "The adapter's folder, DIR or DIR:SCALE")
      ->check(reads(Reads::adapter))
      ->required();
  command->add_option("-o,--output", options->out, "The .gguf, or the new or empty folder, to write")
      ->type_name("OUT")
      ->check(writes())
      ->required();
  add_force(*command, options->force);
  command->add_flag("--strict", options->model.strict, "Refuse config keys that are not known");
  command->add_flag("--json", options->json, "Print what was written as JSON");
  command->footer(
      "Each adapted weight becomes W + scale·B·A, rounded to its own format; all other bytes stay. Weights in block\n"
      "formats (q4_k, …) are refused: merge into the model that was quantised, and quantise the result.\n"
      "Examples:\n"
      "  coterie merge-adapter ./OLMoE-1B-7B runs/tuned/checkpoints/step-0000300 -o olmoe-tuned\n"
      "  coterie merge-adapter model-bf16.gguf adapter:0.5 -o half.gguf");
  command->callback([=, &action] { action = [options] { return merge_adapter_command(*options); }; });
}

}  // namespace coterie::cli
