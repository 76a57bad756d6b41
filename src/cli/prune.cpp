#include "surgery/prune/prune.h"
#include "cli/command_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/print_numbers.h"
#include "cli/terminal.h"
#include "cli/text_windows.h"

namespace coterie::cli {

namespace {

// Windows at the beginning of the text that the model is scored on before and after.
constexpr int64_t kScored = 4;

struct PruneCommand {
  ModelOptions model;
  CalibrationTexts texts;
  std::string out;
  int64_t keep = 0;
  bool uneven = false, json = false, force = false;
};

double loss_of(runtime::Engine& engine, const TextWindows& windows) {
  models::CrossEntropy cross_entropy;
  for (int64_t w = 0; w < std::min(kScored, windows.count()); ++w) {
    runtime::KvCache cache = engine.make_cache();
    score(engine, cache, windows.at(w), 1, cross_entropy);
  }
  return cross_entropy.mean();
}

base::Json layers_as_json(const surgery::ExpertSaliency& saliency, const surgery::KeptExperts& kept) {
  base::Json layers = base::Json::array();
  for (const auto& [number, layer] : saliency.layers())
    layers.push_back(
        {{"layer", number}, {"kept", kept.at(number)}, {"saliency", layer.saliency()}, {"tokens", layer.tokens}});
  return layers;
}

// A copy without a remark is not what anybody asks for.
void expect_fewer(const models::ModelSpec& spec, const surgery::KeptExperts& kept, int64_t keep) {
  for (const auto& [layer, experts] : kept)
    if (std::ssize(experts) <
        std::get<layers::MoeSpec>(spec.blocks[static_cast<size_t>(layer)].ffn).experts_with_weights())
      return;
  throw base::Error(base::ErrorKind::bad_input, "--keep", fmt::format("{} of {} experts drops none", keep, keep),
                    "keep fewer");
}

int prune_command(const PruneCommand& command) {
  double before = 0;
  surgery::KeptExperts kept;
  surgery::Pruned pruned;
  base::Json layers;
  int64_t unseen = 0;
  Progress progress;
  const InterruptFlag interrupt;
  const auto stop = [&] {
    if (interrupt.raised())
      throw base::Error(base::ErrorKind::interrupted, command.out, "interrupted: nothing was written");
  };
  refuse_existing_output(command.out, command.force);
  {
    runtime::Engine engine = open_engine(command.model);
    surgery::check_pruned_form(engine.model(), command.out, command.uneven);
    surgery::ExpertSaliency saliency(engine.spec());
    // Refuses a count that cannot be before anything is computed.
    expect_fewer(engine.spec(), surgery::choose_experts(engine.spec(), saliency.layers(), command.keep, command.uneven),
                 command.keep);
    for (const std::string& text : command.texts.files) {
      const TextWindows windows(engine, text, command.texts.window, command.texts.tokens);
      if (&text == &command.texts.files.front()) before = loss_of(engine, windows);
      for (int64_t w = 0; w < windows.count(); ++w) {
        stop();
        progress.show(fmt::format("{}: window {} of {}", text, w + 1, windows.count()));
        read_window(engine, windows.at(w), &saliency);
      }
    }
    kept = surgery::choose_experts(engine.spec(), saliency.layers(), command.keep, command.uneven);
    for (const auto& [number, layer] : saliency.layers())
      unseen += std::count(layer.tokens.begin(), layer.tokens.end(), 0);
    layers = layers_as_json(saliency, kept);
    pruned = surgery::prune(engine.model(), kept, command.out, [&](std::string_view name, int64_t done, int64_t all) {
      stop();
      progress.show(fmt::format("{}: {}", percent(static_cast<double>(done) / static_cast<double>(all)), name));
    });
  }
  // What it did, by the file that was written.
  ModelOptions written = command.model;
  written.model = command.out;
  runtime::Engine engine = open_engine(written);
  const double after =
      loss_of(engine, TextWindows(engine, command.texts.files.front(), command.texts.window, command.texts.tokens));
  progress.clear();
  if (unseen > 0)
    pruned.notes.push_back(fmt::format("{} never chosen on this text; they go first",
                                       unseen == 1 ? "1 expert was" : fmt::format("{} experts were", unseen)));
  for (const std::string& note : pruned.notes) print_warning(note);
  if (command.json) {
    print(base::Json{{"file", command.out},
                     {"bytes", pruned.file_bytes},
                     {"tensors", pruned.tensors},
                     {"parameters_before", pruned.parameters_before},
                     {"parameters_after", pruned.parameters_after},
                     {"cross_entropy_before", before},
                     {"cross_entropy_after", after},
                     {"unseen", unseen},
                     {"layers", layers},
                     {"notes", pruned.notes}}
              .dump(2) +
          "\n");
    return 0;
  }
  print_note(fmt::format("{}: {}, parameters {} → {}; cross-entropy at the beginning of {} {:.4f} → {:.4f}",
                         command.out, base::human_bytes(pruned.file_bytes), abbreviated(pruned.parameters_before),
                         abbreviated(pruned.parameters_after), command.texts.files.front(), before, after));
  return 0;
}

}  // namespace

void add_prune(CLI::App& app, Action& action) {
  auto options = std::make_shared<PruneCommand>();
  CLI::App* command = app.add_subcommand("prune", "Drop the experts that matter least on a text");
  options->model.add_model(*command);
  command->add_option("--keep", options->keep, "Experts of each layer that stay")
      ->type_name("N")
      ->required()
      ->check(at_least(1));
  options->texts.add_to(*command);
  command
      ->add_option("-o,--output", options->out,
                   "The output, in the model's own form: a file that ends in .gguf, or a new or empty folder")
      ->type_name("OUT")
      ->check(writes())
      ->required();
  command->add_flag(
      "--uneven", options->uneven,
      "Keep as many in all, but more in the layers where they matter (GGUF only; other engines may refuse the file)");
  add_force(*command, options->force);
  command->add_flag("--json", options->json, "Print what was done, layer by layer, as JSON");
  options->model.add_routing(*command);
  options->model.add_engine(*command, false);
  command->footer(
      "An expert matters by the mean, over the tokens that are routed to it, of its weight times the norm of what it\n"
      "gives (REAP, arXiv 2510.13999). The bytes of those that stay are not touched, whatever their format.\n"
      "Examples:\n"
      "  coterie prune olmoe.gguf --keep 48 --text code.txt -o olmoe-48.gguf\n"
      "  coterie prune ./OLMoE-1B-7B --keep 32 --text book.txt --tokens 20000 -o ./olmoe-32 --json");
  command->callback([=, &action] { action = [options] { return prune_command(*options); }; });
}

}  // namespace coterie::cli
