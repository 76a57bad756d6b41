#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/plural.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/number_checks.h"
#include "cli/options.h"
#include "cli/print_numbers.h"
#include "cli/sizes.h"
#include "cli/terminal.h"
#include "lens/routes.h"
#include "runtime/simulation.h"

namespace coterie::cli {

namespace {

struct SimulateOptions {
  std::string trace, expert_bytes, disk;
  std::vector<std::string> memory = {"20%", "40%", "60%", "80%", "100%"};
  std::optional<int64_t> warm_up, prompt;
  int64_t step_tokens = 512, prompt_tokens = 0;
  double speed = 0;  // tokens a second in memory
  double recall = 0;
  bool json = false;
};

struct Row {
  runtime::Simulation run;
  double share = 0;  // of all experts
  double tokens_per_second = 0;
};

int64_t slots_of(const std::string& memory, const lens::Routes& routes, double expert_bytes) {
  const auto all = static_cast<double>(routes.layers * routes.experts);
  if (memory.ends_with('%')) return static_cast<int64_t>(share_option("--memory", memory) * all);
  const auto bytes = static_cast<double>(bytes_option("--memory", memory));
  if (expert_bytes == 0)
    throw base::Error(
        base::ErrorKind::bad_input, "--memory",
        fmt::format("the routes do not say how large an expert is, so that {} cannot be told in experts", memory),
        "--expert-bytes says it; or give shares: --memory 20%,40%");
  return static_cast<int64_t>(std::min(bytes / expert_bytes, all));
}

std::string memory_words(const Row& row, double expert_bytes) {
  const std::string share = fmt::format("{:.0f} %", 100 * row.share);
  if (expert_bytes == 0) return share;
  return fmt::format("{} ({})", share,
                     base::human_bytes(static_cast<int64_t>(static_cast<double>(row.run.slots) * expert_bytes)));
}

std::string as_text(const SimulateOptions& options, const lens::Routes& routes, const std::vector<Row>& rows,
                    int64_t warm_up, double expert_bytes, double disk) {
  const int64_t all = routes.layers * routes.experts, token = routes.layers * routes.choices;
  int64_t prompt = 0;
  for (const Row& row : rows) prompt = std::max(prompt, row.run.prompt.tokens);
  std::string text = fmt::format(
      "{}: {} with {} experts, {} a token; {}, counted behind the first {}\n"
      "a token meets {} of {} experts, {}\n\n",
      styled(routes.model, Style::bold), base::plural(routes.layers, "layer"), routes.experts, routes.choices,
      base::plural(routes.tokens(), "token"), warm_up, grouped(token), grouped(all),
      percent(static_cast<double>(token) / static_cast<double>(all)));
  text += styled(fmt::format("{:<20}{:>10}{:>10}{:>18}{}{}\n", "memory of experts", "slots", "hits", "missed a token",
                             disk > 0 ? fmt::format("{:>14}", "tokens/s") : "",
                             prompt > 0 ? fmt::format("{:>16}", "hits of prompts") : ""),
                 Style::bold);
  if (options.recall > 0)
    text.insert(0, fmt::format("with a simulated look-ahead that guesses {:.0f} % of what a layer asks for\n",
                               100 * options.recall));
  for (const Row& row : rows) {
    const double missed = row.run.missed_per_token();
    const std::string words = expert_bytes > 0 ? base::human_bytes(static_cast<int64_t>(missed * expert_bytes))
                                               : fmt::format("{:.1f}", missed);
    text += fmt::format("{:<20}{:>10}{:>10}{:>18}", memory_words(row, expert_bytes), grouped(row.run.slots),
                        fmt::format("{:.1f} %", 100 * row.run.decode.hit_share()), words);
    if (disk > 0)
      text += fmt::format("{:>14}", std::isfinite(row.tokens_per_second) && row.tokens_per_second > 0
                                        ? fmt::format("{:.1f}", row.tokens_per_second)
                                        : "no reads");
    if (prompt > 0) text += fmt::format("{:>16}", fmt::format("{:.1f} %", 100 * row.run.prompt.hit_share()));
    text += "\n";
  }
  return text;
}

base::Json as_json(const SimulateOptions& options, const lens::Routes& routes, const std::vector<Row>& rows,
                   int64_t warm_up, double expert_bytes, double disk) {
  base::Json list = base::Json::array();
  for (const Row& row : rows) {
    const auto counts = [](const runtime::ExpertPolicy::Counts& of) {
      return base::Json{{"tokens", of.tokens}, {"hits", of.hits}, {"misses", of.misses}, {"hit_share", of.hit_share()}};
    };
    list.push_back({{"slots", row.run.slots},
                    {"share", row.share},
                    {"decode", counts(row.run.decode)},
                    {"prompt", counts(row.run.prompt)},
                    {"missed_experts_per_token", row.run.missed_per_token()},
                    {"missed_bytes_per_token",
                     expert_bytes > 0 ? base::Json(row.run.missed_per_token() * expert_bytes) : base::Json(nullptr)},
                    {"tokens_per_second", std::isfinite(row.tokens_per_second) && row.tokens_per_second > 0
                                              ? base::Json(row.tokens_per_second)
                                              : base::Json(nullptr)}});
  }
  return {{"routes", options.trace},
          {"model", routes.model},
          {"layers", routes.layers},
          {"experts", routes.experts},
          {"experts_per_token", routes.choices},
          {"tokens", routes.tokens()},
          {"warm_up", warm_up},
          {"step_tokens", options.step_tokens},
          {"prompt_tokens", std::max(options.prompt_tokens, options.step_tokens)},
          {"expert_bytes", expert_bytes > 0 ? base::Json(expert_bytes) : base::Json(nullptr)},
          {"recall", options.recall},
          {"disk_bytes_per_second", disk > 0 ? base::Json(disk) : base::Json(nullptr)},
          {"memory", list}};
}

int simulate_command(const SimulateOptions& options) {
  const lens::Routes routes = lens::read_routes(options.trace);
  const auto expert_bytes = static_cast<double>(
      options.expert_bytes.empty() ? routes.expert_bytes : bytes_option("--expert-bytes", options.expert_bytes));
  const double disk = options.disk.empty() ? 0 : rate_option("--disk", options.disk);
  if (disk > 0 && expert_bytes == 0)
    base::fail(base::ErrorKind::bad_input, "--disk",
               "the routes do not say how large an expert is: --expert-bytes says it");
  runtime::SimulationOptions wanted;
  wanted.warm_up = options.warm_up.value_or(routes.tokens() / 3);
  wanted.prompt = options.prompt.value_or(-1), wanted.step_tokens = options.step_tokens;
  wanted.prompt_tokens = options.prompt_tokens;
  const runtime::StreamSpeed speed{expert_bytes, disk, options.speed > 0 ? 1 / options.speed : 0, options.recall};
  std::vector<Row> rows;
  for (const std::string& memory : options.memory) {
    wanted.slots = slots_of(memory, routes, expert_bytes);
    Row row{.run = runtime::simulate(routes, wanted)};
    row.share = static_cast<double>(wanted.slots) / static_cast<double>(routes.layers * routes.experts);
    if (disk > 0) row.tokens_per_second = 1 / runtime::seconds_per_token(row.run, speed);
    rows.push_back(std::move(row));
  }
  print(options.json ? as_json(options, routes, rows, wanted.warm_up, expert_bytes, disk).dump(2) + "\n"
                     : as_text(options, routes, rows, wanted.warm_up, expert_bytes, disk));
  return 0;
}

}  // namespace

void add_simulate(CLI::App& app, Action& action) {
  auto options = std::make_shared<SimulateOptions>();
  CLI::App* command = app.add_subcommand(
      "simulate",
      "Predict how often recorded routes find their experts in so much memory, and how fast a disk makes that");
  command
      ->add_option("TRACE", options->trace,
                   "A file of coterie trace, or .jsonl: a line that describes the model, then one for each token")
      ->check(reads())
      ->required();
  command
      ->add_option(
          "--memory", options->memory,
          "Memory for experts: shares of all of them (20%), or bytes (2.4G); several with commas between (default: "
          "20%,40%,60%,80%,100%)")
      ->type_name("LIST")
      ->delimiter(',');
  command->add_option("--expert-bytes", options->expert_bytes, "Bytes of one expert (default: as the routes say)")
      ->type_name("SIZE");
  command->add_option("--disk", options->disk, "Bytes a second of the disk: predicts tokens a second")
      ->type_name("RATE");
  command
      ->add_option("--speed", options->speed,
                   "Tokens a second when all is in memory, which computing takes beside reading (default: no limit)")
      ->type_name("T/S")
      ->check(number_above_zero())
      ->needs("--disk");
  command
      ->add_option("--recall", options->recall,
                   "Simulate a look-ahead that guesses this share of the experts a layer asks for (published models: "
                   "0.75 to 0.9; default: 0, none)")
      ->type_name("R")
      ->check(number_between(0, 1))
      ->needs("--disk");
  command
      ->add_option("--warm-up", options->warm_up,
                   "Tokens that are not counted, since slots are empty at first (default: a third of them)")
      ->type_name("N")
      ->check(at_least(0));
  command
      ->add_option("--prompt", options->prompt,
                   "The first N tokens of each sequence are read as a prompt (default: as the routes say, else none)")
      ->type_name("N")
      ->check(at_least(0));
  command->add_option("--step-tokens", options->step_tokens, "Tokens of a prompt that are read at once")
      ->type_name("N")
      ->check(at_least(1))
      ->capture_default_str();
  command
      ->add_option("--prompt-tokens", options->prompt_tokens,
                   "Tokens of a prompt that a layer reads, --step-tokens at a time, before the next layer begins: as "
                   "coterie run says (default: --step-tokens)")
      ->type_name("N")
      ->check(at_least(1));
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(
      "Which experts are kept is decided by the code that decides it when a model is run (aged LFU).\n"
      "Examples:\n"
      "  coterie trace model.gguf --text book.txt -o book.safetensors && coterie simulate book.safetensors\n"
      "  coterie simulate qwen.jsonl --memory 30%,50% --disk 1.1G --speed 20\n"
      "  coterie simulate book.safetensors --memory 2.4G --expert-bytes 2.65M --json");
  command->callback([=, &action] { action = [options] { return simulate_command(*options); }; });
}

}  // namespace coterie::cli
