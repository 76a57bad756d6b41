#include <fmt/format.h>

#include <memory>

#include "base/atomic_file.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "lens/report.h"
#include "lens/run_table.h"

namespace coterie::cli {

namespace {

struct ReportOptions {
  std::vector<std::string> runs;
  std::string out = "report.html";
  bool table = false;
};

int report(const ReportOptions& options) {
  std::vector<lens::RunLog> logs;
  for (const std::string& given : options.runs)
    for (const auto& run : lens::runs_in(given)) logs.push_back(lens::read_run_log(run));
  lens::tell_apart(logs);
  if (options.table) {
    print(lens::run_table(logs));
    return 0;
  }
  base::write_text(options.out, lens::training_report(logs));
  print_note(fmt::format("{}: {} run{}", options.out, logs.size(), logs.size() == 1 ? "" : "s"));
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Action& action) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* command = app.add_subcommand("report", "A page of curves and expert loads of training runs");
  command
      ->add_option("RUN", options->runs,
                   "Folders that coterie train wrote into (those of variants too), or their log.jsonl")
      ->required();
  auto* out = command->add_option("-o,--output", options->out, "The page, one self-contained HTML file")
                  ->type_name("FILE")
                  ->capture_default_str();
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
