#include "cli/speculate_options.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "cli/command_files.h"
#include "cli/help.h"
#include "families/ensemble/gate.h"

namespace coterie::cli {

void SpeculateOptions::add(CLI::App& app) {
  const Heading heading(app, kMachine);
  option_ =
      app.add_option("--speculate", kind_,
                     "Draft tokens and verify several in one step; the text stays the same to the bit. ngram: what "
                     "followed the last\ntokens earlier in the text; mtp: what the model's head for multi-token "
                     "prediction says; draft:MODEL: what a\nsmaller model with the same vocabulary says. No draft is "
                     "made while it does not pay")
          ->type_name("ngram|mtp|draft:MODEL")
          ->check(reads(Reads::draft));
  app.add_option("--draft-tokens", most_, "Tokens of a draft at most")
      ->type_name("N")
      ->check(between(1, 64))
      ->capture_default_str()
      ->needs(option_);
  app.add_flag("--draft-always", always_,
               "Draft so many in each step, whether or not it pays: for measurements, whose acceptance then depends on "
               "the text alone")
      ->needs(option_);
}

void SpeculateOptions::check(ModelOptions& model, bool experts) const {
  if (!given()) return;
  (void)runtime::read_speculation(kind_);
  if (families::is_ensemble(model.model))
    throw base::Error(base::ErrorKind::unsupported, "--speculate", "works with one model, and this is an ensemble",
                      "leave it off, or name one of its models");
  if (experts)
    throw base::Error(base::ErrorKind::bad_input, "--experts",
                      "would count the experts of drafts that were wrong (--speculate)", "leave one of them off");
  if (!model.memory.empty() && runtime::read_speculation(kind_).kind != runtime::SpeculationOptions::Kind::lookup)
    throw base::Error(base::ErrorKind::unsupported, "--speculate",
                      "mtp and draft:MODEL run a second model, and --memory bounds one",
                      "leave one of them off, or use ngram");
  model.drafted = most_;
}

std::unique_ptr<runtime::Speculation> SpeculateOptions::open(const runtime::Engine& engine,
                                                             const ModelOptions& model) const {
  if (!given()) return nullptr;
  runtime::SpeculationOptions options = runtime::read_speculation(kind_);
  options.most = most_, options.always = always_;
  return std::make_unique<runtime::Speculation>(options, engine, model.engine_options());
}

std::string describe(const runtime::Speculator& speculator) {
  const runtime::SpeculationStatistics& statistics = speculator.statistics();
  if (statistics.drafted == 0) return speculator.on() ? "nothing was drafted" : "no draft would have paid";
  return fmt::format("{} of {} drafted tokens accepted ({:.0f} %){}", statistics.accepted, statistics.drafted,
                     100 * statistics.acceptance(), speculator.on() ? "" : ", off at the end: it did not pay");
}

}  // namespace coterie::cli
