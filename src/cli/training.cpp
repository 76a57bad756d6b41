#include "cli/training.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "cli/number_words.h"
#include "cli/options.h"
#include "kernels/table.h"
#include "runtime/machine.h"
#include "threads/pool.h"
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
  app.add_option("-o,--output", out, "The folder of the run (default: runs/NAME of the recipe)")->type_name("FOLDER");
  app.add_flag("--resume", resume, "Go on from the newest checkpoint; begin where there is none");
  auto* variant = app.add_option("--variant", variants,
                                 "One of the recipe's variants, into a folder of its own below the run's; repeatable")
                      ->type_name("NAME");
  app.add_flag("--all", all, "All variants of the recipe, one after the other")->excludes(variant);
  app.add_option("--set", settings, "Replace a value of the recipe: training.steps=100; null takes it out; repeatable")
      ->type_name("KEY=VALUE");
  app.add_option("-t,--threads", threads, "Threads (default: one for each physical core)")
      ->type_name("N")
      ->check(at_least(1));
  app.add_flag("--json", json, "Print the log's events, one object a line");
}

bool train_one(const TrainOptions& options, const std::string& variant, const fs::path& out,
               const InterruptFlag& interrupt) {
  train::Recipe recipe = train::read_recipe(options.recipe, {variant, options.settings, options.tuned});
  const std::string name = recipe.name;
  const int64_t steps = recipe.schedule.steps;
  Reporter reporter(name, options.json);
  reporter.set_steps(steps);
  threads::Pool pool(options.threads);
  const kernels::KernelTable& kernels = kernels::select();
  train::TrainerListener listener;
  listener.note = [&](const std::string& text) { reporter.note(text); };
  listener.event = [&](const Json& event) { reporter.event(event); };
  // In the precision of the run: a CPU without products of bf16 refuses such a recipe soon.
  const runtime::MachineLimits limits = runtime::machine_limits(pool, kernels);
  const double peak = recipe.precision == ops::Precision::bf16 ? limits.bf16_flops : limits.f32_flops;
  train::Trainer trainer(std::move(recipe), {out, options.resume, peak}, pool, kernels, listener);
  reporter.clear();
  for (const std::string& warning : trainer.warnings()) print_warning(warning);
  if (options.resume && trainer.step() > 0) print_note(fmt::format("{}: goes on after step {}", name, trainer.step()));
  const bool finished = trainer.run(interrupt.flag());
  if (finished && trainer.stopped_early())
    print_note(
        fmt::format("{}: stopped at step {} of {}: the validation loss got no better", name, trainer.step(), steps));
  print_note(finished ? fmt::format("{}: {}", name, trainer.result().string())
                      : fmt::format("{}: stopped at step {} of {}; go on with --resume", name, trainer.step(), steps));
  return finished;
}

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

void train_variants(const TrainOptions& options) {
  const std::vector<std::string> variants = variants_asked_for(options);
  const fs::path out = options.out.empty() ? fs::path("runs") / fs::path(options.recipe).stem() : fs::path(options.out);
  const InterruptFlag interrupt;
  // All are read before the first begins: a fault in the last does not wait for hours.
  for (const std::string& variant : variants)
    train::read_recipe(options.recipe, {variant, options.settings, options.tuned});
  for (const std::string& variant : variants)
    if (!train_one(options, variant, variant.empty() ? out : out / variant, interrupt))
      throw base::Error(base::ErrorKind::interrupted, out.string(), "the run was interrupted", "");
}

}  // namespace coterie::cli
