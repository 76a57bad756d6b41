#include "cli/training.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/yaml.h"
#include "cli/command_files.h"
#include "cli/options.h"
#include "cli/print_numbers.h"
#include "cli/ranks.h"
#include "kernels/table.h"
#include "runtime/machine.h"
#include "threads/pool.h"
#include "train/run_checks.h"
#include "train/trainer.h"

namespace coterie::cli {

namespace {

namespace fs = std::filesystem;
using base::Json;

}  // namespace

std::string trainable_line(const Json& places) {
  int64_t sum = 0;
  std::string list;
  for (const auto& [place, count] : places.items()) {
    sum += count.get<int64_t>();
    list += fmt::format("{}{} in {}", list.empty() ? "" : ", ", grouped(count), place);
  }
  return fmt::format("{} of them are trained: {}", grouped(sum), list);
}

namespace {

// The line that is overwritten, and a line for each evaluation that stays.
class Reporter {
 public:
  Reporter(std::string name, bool json) : name_(std::move(name)), json_(json) {}

  void note(const std::string& text) { progress_.show(name_ + ": " + text); }

  void event(const Json& event) {
    if (json_) return print(event.dump() + "\n");
    const std::string kind = event["kind"];
    if (kind == "start") start(event);
    if (kind == "resume") steps_ = event.value("steps", steps_);
    if (kind == "step") step(event);
    if (kind == "evaluation") evaluation(event);
  }
  void set_steps(int64_t steps) { steps_ = steps; }
  void clear() { progress_.clear(); }

 private:
  void start(const Json& event) {
    progress_.clear();
    print(fmt::format("{}: {} parameters, {} of them active for a token; {} tokens to train on\n",
                      styled(name_, Style::bold), grouped(event["parameters"]), grouped(event["active_parameters"]),
                      grouped(event["training_tokens"])));
    if (event.contains("trainable")) print(name_ + ": " + trainable_line(event["trainable"]) + "\n");
    if (event.contains("instructions"))
      for (const auto& [of, counts] : event["instructions"].items())
        print(
            fmt::format("{}: {} data: {} samples, {} of {} tokens are scored; {} were cut at the sequence's length, "
                        "{} left out\n",
                        name_, of, grouped(counts["samples"]), grouped(counts["scored"]), grouped(counts["tokens"]),
                        grouped(counts["truncated"]), grouped(counts["dropped"])));
  }

  void step(const Json& event) {
    const double loss = event["loss"], speed = event["tokens_per_second"];
    const int64_t at = event["step"];
    smooth_ = seen_++ == 0 ? loss : smooth_ + (loss - smooth_) / static_cast<double>(std::min<int64_t>(seen_, 50));
    speed_ = speed_ == 0 ? speed : speed_ + (speed - speed_) / 20;
    // A file or a pipe gets a line a minute, a terminal one that is overwritten.
    const bool lines = !stderr_is_terminal();
    if (since_.seconds() < (lines ? 60 : 0.2) && (lines || at != steps_)) return;
    since_.restart();
    const double tokens = static_cast<double>(event["tokens"].get<int64_t>()) / static_cast<double>(at);
    const double left = static_cast<double>(steps_ - at) * tokens / speed_;
    std::string peak;
    if (event.contains("peak_share"))
      peak = fmt::format(" · {:.0f} % of peak", 100 * event["peak_share"].get<double>() * speed_ / speed);
    const std::string line = fmt::format("{}: step {} of {} · loss {:.4f} · {:.0f} tokens/s{} · {} left", name_, at,
                                         steps_, smooth_, speed_, peak, duration(left));
    lines ? print_note(line) : progress_.show(line);
  }

  void evaluation(const Json& event) {
    progress_.clear();
    std::string line =
        fmt::format("{}: step {:>6} · train {:.4f}", name_, event["step"].get<int64_t>(), event["train"].get<double>());
    if (event.contains("validation")) line += fmt::format(" · validation {:.4f}", event["validation"].get<double>());
    if (event.contains("bits_per_byte"))
      line += fmt::format(" · {:.4f} bits/byte", event["bits_per_byte"].get<double>());
    if (event.contains("prediction"))
      line += fmt::format(" · of the token after next {:.4f}", event["prediction"].get<double>());
    print(line + fmt::format(" · {} in steps\n", duration(event["seconds"])));
  }

  static std::string duration(double seconds) {
    if (seconds < 120) return fmt::format("{:.0f} s", seconds);
    if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
    return fmt::format("{:.1f} h", seconds / 3600);
  }

  std::string name_;
  bool json_;
  Progress progress_;
  base::Stopwatch since_;
  int64_t steps_ = 0, seen_ = 0;
  double smooth_ = 0, speed_ = 0;
};

}  // namespace

void TrainOptions::add_run(CLI::App& app) {
  app.add_option("-o,--output", out, "The folder of the run (default: runs/NAME of the recipe)")
      ->type_name("FOLDER")
      ->check(writes());
  app.add_option_function<std::string>(
         "--resume", [this](const std::string& folder) { resume = true, run = folder; },
         "Go on from the newest checkpoint: of the run in FOLDER by its own recipe, without RECIPE; or of RECIPE's "
         "run, "
         "which begins where there is none")
      ->type_name("[FOLDER]")
      ->check(may_be_empty())
      ->expected(0, 1);
  app.add_option("--extend", extensions,
                 "With --resume: change how long the run goes on or at which rates: steps=3000; schedule, warmup, "
                 "decay, floor, learning_rate; recorded in the run; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->needs("--resume");
  app.add_option("--from", from, "With --resume: go on from the checkpoint of this step; later ones are removed")
      ->type_name("STEP")
      ->check(at_least(0))
      ->needs("--resume");
  auto* variant = app.add_option("--variant", variants,
                                 "One of the recipe's variants, into a folder of its own below the run's; repeatable")
                      ->type_name("NAME");
  app.add_flag("--all", all, "All variants of the recipe, one after the other")->excludes(variant);
  app.add_option("--set", settings, "Replace a value of the recipe: training.steps=100; null removes it; repeatable")
      ->type_name("KEY=VALUE");
  app.add_option("--shards", shards,
                 "Parts that each batch is dealt out to, stored with the run (training.shards; default: as many as "
                 "ranks). A run gives the same bits on any number of ranks that divides them")
      ->type_name("V")
      ->check(at_least(1));
  app.add_option("-t,--threads", threads, "Threads (default: one for each physical core)")
      ->type_name("N")
      ->check(at_least(1));
  app.add_flag("--json", json, "Print the log's events, one object a line");
}

void TrainOptions::sort_names() {
  std::vector<std::string> names;
  for (const std::string& name : {std::exchange(tuned, {}), std::exchange(recipe, {})})
    if (!name.empty()) names.push_back(name);
  const size_t wanted = tunes ? 2 : 1;
  std::error_code absent;
  // A file, or a folder without a run beside the other name: it was to stand before --resume.
  const bool is_name = fs::is_regular_file(run, absent) || (!names.empty() && train::RunFolder::runs_in(run).empty());
  if (!run.empty() && names.size() < wanted && is_name) names.insert(names.begin(), std::exchange(run, {}));
  if (names.empty() && !run.empty()) {
    if (!variants.empty() || all || !settings.empty() || !out.empty() || shards > 0)
      throw CLI::ValidationError("--resume " + run,
                                 "a run goes on with the recipe it began with: --set, --variant, --all, --shards and "
                                 "-o are for runs that begin, --extend changes its length and rates");
    return;
  }
  if (names.size() < wanted)
    throw CLI::RequiredError(tunes && names.empty() ? "MODEL and RECIPE, or --resume FOLDER,"
                             : tunes                ? "RECIPE"
                                                    : "RECIPE, or --resume FOLDER,");
  recipe = names.back();
  if (tunes) tuned = names.front();
  if (run.empty()) return;
  if (!out.empty() && out != run)
    throw CLI::ValidationError("--output", "is " + out + ", and the run to go on with is " + run);
  out = run;
}

namespace {

// Trains one variant into `out` and says on the screen how it goes. Whether it was finished; else it was interrupted.
bool train_one(const TrainOptions& options, train::Recipe recipe, const fs::path& out, train::Team* team,
               const InterruptFlag& interrupt) {
  const std::string name = recipe.name;
  const int64_t steps = recipe.schedule.steps;
  Reporter reporter(name, options.json);
  reporter.set_steps(steps);
  threads::Pool pool(threads_of_rank(options.threads));
  const kernels::KernelTable& kernels = kernels::select();
  train::TrainerListener listener;
  listener.note = [&](const std::string& text) { reporter.note(text); };
  listener.event = [&](const Json& event) { reporter.event(event); };
  // In the precision of the run: a CPU without products of bf16 refuses such a recipe soon.
  double peak = 0;  // of several ranks: not shown, since they may be of several machines
  if (!team) {
    const runtime::MachineLimits limits = runtime::machine_limits(pool, kernels);
    peak = recipe.precision == ops::Precision::bf16 ? limits.bf16_flops : limits.f32_flops;
  }
  const base::Json extended = recipe.extended;
  const bool tunes = recipe.tune.has_value();
  train::Trainer trainer(std::move(recipe), {out, options.resume, peak, options.from, team}, pool, kernels, listener);
  reporter.clear();
  for (const std::string& warning : trainer.warnings()) print_warning(warning);
  for (const auto& [key, change] : extended.items())
    print_note(fmt::format("{}: {} was {} and is {} from step {} on", name, key, change["was"].dump(),
                           change["is"].dump(), trainer.step()));
  if (trainer.finished()) {
    print_note(fmt::format("{}: already finished at step {}: {}", name, trainer.step(), trainer.result().string()));
    return true;
  }
  if (options.resume && trainer.step() > 0) print_note(fmt::format("{}: goes on after step {}", name, trainer.step()));
  const bool finished = trainer.run(interrupt.flag());
  reporter.clear();
  if (finished && trainer.stopped_early())
    print_note(
        fmt::format("{}: stopped at step {} of {}: the validation loss did not improve", name, trainer.step(), steps));
  print_note(finished ? fmt::format("{}: {}", name, trainer.result().string())
                      : fmt::format("{}: stopped at step {} of {}; go on with coterie {} --resume {}", name,
                                    trainer.step(), steps, tunes ? "tune" : "train", out.string()));
  return finished;
}

}  // namespace

std::vector<std::string> variants_asked_for(const TrainOptions& options) {
  std::vector<std::string> variants = options.variants;
  if (options.all) {
    variants = train::variants_of(options.recipe);
    if (variants.empty())
      base::fail(base::ErrorKind::bad_input, options.recipe, "has no variants, and --all asks for all of them");
  }
  if (variants.empty()) variants.emplace_back();
  return variants;
}

namespace {

struct Run {
  train::Recipe recipe;
  fs::path out;
};

/// Those that are asked for, or that the run there has, or as many as ranks; 0: what the recipe says.
int64_t shards_of(const TrainOptions& options, const std::string& variant, const fs::path& run) {
  if (options.shards > 0) return options.shards;
  const auto sets_them = [](const std::string& setting) { return setting.starts_with("training.shards="); };
  if (std::any_of(options.settings.begin(), options.settings.end(), sets_them)) return 0;
  std::error_code absent;
  if (const fs::path recipe = train::RunFolder(run).recipe(); options.resume && fs::exists(recipe, absent)) {
    const Json training = base::read_json(recipe).value("training", Json::object());
    return training.value("shards", int64_t{0});
  }
  if (ranks() == 1) return 0;
  Json recipe = base::read_yaml(options.recipe);
  if (!recipe.is_object()) return 0;  // refused when it is read
  const Json variants = recipe.value("variants", Json());
  if (variants.is_object() && variants.contains(variant)) recipe.merge_patch(variants[variant]);
  const Json training = recipe.value("training", Json());
  return training.is_object() && training.contains("shards") ? 0 : ranks();
}

std::vector<Run> runs_asked_for(const TrainOptions& options) {
  std::vector<Run> runs;
  if (options.recipe.empty()) {
    std::vector<fs::path> folders = train::RunFolder::runs_in(options.run);
    if (folders.empty()) folders.emplace_back(options.run);  // refused, with what is missing
    for (const fs::path& folder : folders) {
      runs.push_back({train::read_recipe_of_run(folder, options.extensions), folder});
      if (runs.back().recipe.tune.has_value() != options.tunes)
        throw base::Error(base::ErrorKind::bad_input, folder.string(),
                          options.tunes ? "is a run of coterie train" : "is a run of coterie tune",
                          fmt::format("coterie {} --resume {}", options.tunes ? "train" : "tune", folder.string()));
    }
    return runs;
  }
  const fs::path out = options.out.empty() ? fs::path("runs") / fs::path(options.recipe).stem() : fs::path(options.out);
  for (const std::string& variant : variants_asked_for(options)) {
    const fs::path folder = variant.empty() ? out : out / variant;
    std::vector<std::string> settings = options.settings;
    if (const int64_t shards = shards_of(options, variant, folder); shards > 0)
      settings.push_back(fmt::format("training.shards={}", shards));
    runs.push_back(
        {train::read_recipe(options.recipe, {variant, settings, options.tuned, options.extensions}), folder});
  }
  return runs;
}

}  // namespace

void train_variants(const TrainOptions& options) {
  const InterruptFlag interrupt;
  // All are read before the first begins: a fault in the last does not wait for hours.
  std::vector<Run> runs;
  const auto read = [&] {
    runs = runs_asked_for(options);
    std::string words = fmt::format("{} from {}", options.resume ? "resume" : "begin", options.from.value_or(-1));
    for (const Run& run : runs) words += " " + run.out.string() + " " + run.recipe.source.dump();
    return words;
  };
  train::Team* const team = join_training(read);
  if (!team) read();
  for (const Run& run : runs) train::require_precision(run.recipe, kernels::select());
  for (Run& run : runs)
    if (!train_one(options, std::move(run.recipe), run.out, team, interrupt))
      throw base::Error(base::ErrorKind::interrupted, "", "");  // said already
}

}  // namespace coterie::cli
