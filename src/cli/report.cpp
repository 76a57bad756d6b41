#include <fmt/format.h>

#include <memory>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/plural.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "lens/report.h"
#include "lens/run_table.h"

namespace coterie::cli {

namespace {

struct ReportOptions {
  std::vector<std::string> runs;
  std::string out = "report.html";
  bool table = false, force = false;
};

int report(const ReportOptions& options) {
  if (!options.table) refuse_existing_output(options.out, options.force || lens::is_training_report(options.out));
  std::vector<lens::RunLog> logs;
  for (const std::string& given : options.runs)
    for (const auto& run : lens::runs_in(given)) logs.push_back(lens::read_run_log(run));
  lens::tell_apart(logs);
  if (options.table) {
    print(lens::run_table(logs));
    return 0;
  }
  base::write_text(options.out, lens::training_report(logs));
  print_note(fmt::format("{}: {}", options.out, base::plural(std::ssize(logs), "run")));
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Action& action) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* command = app.add_subcommand("report", "Make a page of curves and expert loads of training runs");
  command
      ->add_option("RUN", options->runs,
                   "Folders that coterie train wrote into (those of variants too), or their log.jsonl")
      ->check(reads(Reads::run))
      ->required();
  auto* out = command
                  ->add_option("-o,--output", options->out,
                               "The page, one self-contained HTML file; an earlier report of that name is replaced")
                  ->type_name("FILE")
                  ->check(writes())
                  ->capture_default_str();
  add_force(*command, options->force);
  command->add_flag("--table", options->table, "Print where each run is, a line each, instead of a page")
      ->excludes(out);
  command->footer(
      "Examples:\n"
      "  coterie report runs/makemoe\n"
      "  coterie report runs/dense runs/moe -o compare.html\n"
      "  coterie report --table runs/collapse");
  command->callback([=, &action] { action = [options] { return report(*options); }; });
}

}  // namespace coterie::cli
