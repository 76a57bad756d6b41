#include "surgery/quantize/importance.h"
#include "cli/command_files.h"

#include <fmt/format.h>

#include <memory>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output_file.h"
#include "cli/terminal.h"
#include "cli/text_windows.h"
#include "families/gguf/gguf_metadata.h"

namespace coterie::cli {

namespace {

struct ImportanceCommand {
  ModelOptions model;
  CalibrationTexts texts;
  std::vector<std::string> earlier;
  std::string out;
  bool json = false, force = false;
};

struct Unseen {
  int64_t matrices = 0, tensors = 0;
  std::string examples;
};

Unseen unseen_of(const surgery::Importance& importance) {
  Unseen unseen;
  for (const auto& [name, entry] : importance.entries) {
    const int64_t count = entry.unseen();
    if (count == 0) continue;
    unseen.matrices += count;
    if (++unseen.tensors <= 3)
      unseen.examples += fmt::format("{}{} of {} in {}", unseen.examples.empty() ? "" : ", ", count, entry.items, name);
  }
  return unseen;
}

int importance_command(ImportanceCommand& command) {
  refuse_output_file(command.out, command.force);
  runtime::Engine engine = open_engine(command.model);
  std::vector<surgery::Importance> earlier;  // read first: a fault in a file does not wait for the counting
  for (const std::string& file : command.earlier) earlier.push_back(surgery::read_importance(file));
  surgery::ImportanceCounter counter(*engine.model().decoder, families::gguf_architecture(engine.spec()));
  surgery::Importance& importance = counter.counted();
  Progress progress;
  const InterruptFlag interrupt;
  const base::Stopwatch clock;
  int64_t tokens = 0;
  for (const std::string& text : command.texts.files) {
    const TextWindows windows(engine, text, command.texts.window, command.texts.tokens);
    for (int64_t w = 0; w < windows.count(); ++w) {
      if (interrupt.raised())
        throw base::Error(base::ErrorKind::interrupted, command.out, "interrupted: nothing was written");
      progress.show(fmt::format("{}: window {} of {}", text, w + 1, windows.count()));
      read_window(engine, windows.at(w), &counter);
    }
    importance.texts.push_back(text);
    importance.chunks += windows.count(), importance.chunk_tokens = windows.window();
    tokens += windows.tokens();
  }
  progress.clear();
  for (const surgery::Importance& more : earlier) importance.add(more);
  surgery::write_importance(importance, command.out);
  const Unseen unseen = unseen_of(importance);
  if (unseen.matrices > 0)
    print_warning(
        fmt::format("{} matrices of experts were never seen ({}{}): quantize rounds them as without importance",
                    unseen.matrices, unseen.examples, unseen.tensors > 3 ? ", …" : ""));
  const double seconds = clock.seconds();
  if (command.json) {
    print(base::Json{{"file", command.out},
                     {"tensors", importance.entries.size()},
                     {"texts", importance.texts},
                     {"tokens", tokens},
                     {"windows", importance.chunks},
                     {"unseen", unseen.matrices},
                     {"seconds", seconds}}
              .dump(2) +
          "\n");
    return 0;
  }
  print_note(fmt::format("{}: {} tensors over {} tokens in {:.1f} s, {:.1f} tokens/s", command.out,
                         importance.entries.size(), tokens, seconds, static_cast<double>(tokens) / seconds));
  print_reads(engine);
  return 0;
}

}  // namespace

void add_importance(CLI::App& app, Action& action) {
  auto options = std::make_shared<ImportanceCommand>();
  CLI::App* command =
      app.add_subcommand("importance", "Count on a text which columns of the weights matter, for quantize");
  options->model.add_model(*command);
  options->texts.add_to(*command);
  command->add_option("-o,--output", options->out, "The file to write, llama.cpp's GGUF form of an imatrix")
      ->type_name("FILE")
      ->check(writes())
      ->required();
  command->add_option("--add", options->earlier, "Earlier files, whose counts are added")
      ->type_name("FILE")
      ->check(reads());
  add_force(*command, options->force);
  command->add_flag("--json", options->json, "Print what was counted as JSON");
  options->model.add_routing(*command);
  options->model.add_engine(*command, false);
  command->footer(
      "For each matrix the squares of its inputs are summed, column by column; for each expert over the tokens "
      "that\nare routed to it. Runs over several texts add up to one run over all. The file is read "
      "by\n"
      "llama-quantize, and what llama-imatrix writes by coterie quantize.\n"
      "Examples:\n"
      "  coterie importance olmoe-f16.gguf --text book.txt -o olmoe.imatrix.gguf\n"
      "  coterie importance olmoe-f16.gguf --text code.txt --add olmoe.imatrix.gguf -o both.imatrix.gguf");
  command->callback([=, &action] { action = [options] { return importance_command(*options); }; });
}

}  // namespace coterie::cli
