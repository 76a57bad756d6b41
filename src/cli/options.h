#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/rope_options.h"
#include "cli/sampling_rules.h"
#include "families/open.h"
#include "runtime/engine.h"
#include "runtime/engines.h"
#include "runtime/generation.h"

namespace coterie::cli {

/// A check of CLI11 that says what was found and what is expected, in place of its ranges to the largest double.
CLI::Validator at_least(int64_t least);
CLI::Validator between(int64_t least, int64_t most);
/// --threads; warns where that is more than the processors there are.
CLI::Option* add_threads(CLI::App& app, int& threads);

/// DIR or DIR:SCALE.
std::pair<std::filesystem::path, double> read_adapter_option(const std::string& argument);

/// Options of every command that runs a model.
struct ModelOptions {
  std::string model;
  int threads = 0;
  int64_t context = 0;
  std::string precision = "fast";
  std::string cache_type, memory, disk_reader = "threads", look_ahead = "auto";
  std::optional<int64_t> experts_per_token;
  std::string router;
  std::string adapter;
  std::string split, placement;  // over ranks
  int64_t hot_experts = 0;       // with a placement
  RopeArguments rope;
  bool strict = false, file_pages = false;
  int64_t drafted = 0;  // tokens of a draft at most (--speculate)

  void add_model_or_gate(CLI::App& app);         // MODEL, or a gate over several
  void add_model(CLI::App& app);                 // MODEL
  void add_routing(CLI::App& app);               // --experts-per-token, --router, --strict
  void add_adapter(CLI::App& app);               // --adapter
  void add_engine(CLI::App& app, bool context);  // --threads, --context, --rope-…, --precision, --memory …

  void add_model_as(CLI::App& app, const std::string& text);  // MODEL, which `text` explains

  families::OpenOptions open_options() const;
  runtime::EngineOptions engine_options() const;
};

/// Opens, warns on stderr about what the model's warnings say, and readies it.
runtime::Engine open_engine(const ModelOptions& options);
/// The same for a model or for a gate over several (families/ensemble/gate.h).
runtime::Engines open_engines(const ModelOptions& options);
/// Warnings of the model.
void warn_about(const families::Model& model);

/// What reading experts from the disk has cost so far, "experts: 91.2 % hits · …"; empty where none is.
std::string describe_reads(runtime::Engine& engine);
/// The same as a note on stderr.
void print_reads(runtime::Engine& engine);

/// --force, of commands that write one file: replace what exists.
CLI::Option* add_force(CLI::App& app, bool& force);
/// What exists is not written over, which is said before anything is computed: throws bad_input for a folder that is
/// not empty, and for a file unless `force`. The rule of all commands that write.
void refuse_existing_output(const std::filesystem::path& out, bool force);

/// The template in `file`, or where that is empty Engines::chat_template of the engine that answers. Throws unsupported
/// when there is none. Every command takes its template from here.
text::ChatTemplate chosen_template(const runtime::Engines& engines, const runtime::Engine& answers,
                                   const std::string& file);

/// Options of how text is generated. The defaults are for text that people read.
struct SamplingOptions {
  int64_t tokens = -1;
  bool greedy = false;
  double temperature = 0.8;
  int64_t top_k = 40;
  double top_p = 0.95;
  double min_p = 0.05;
  double typical = 1;
  SamplingRules rules;
  double repeat_penalty = 1;
  int64_t repeat_last_n = 64;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::vector<std::string> logit_bias;
  std::optional<uint64_t> seed;
  bool ignore_end = false;
  std::vector<std::string> stop;

  const CLI::App* app = nullptr;  // of add()

  void add(CLI::App& app);
  /// Takes what the makers of the model recommend for every option that was not given; what was taken, in words ("" for
  /// nothing). Throws what families::recommended_sampling throws.
  std::string adopt(const families::Model& model);
  /// A seed that was not given is drawn, so that the statistics can name it.
  runtime::GenerationOptions generation_options();
};

/// "prompt 12 tokens 85.3/s · answer 64 tokens 23.1/s · …"
std::string describe(const runtime::GenerationStatistics& statistics, runtime::Finish finish,
                     std::optional<uint64_t> seed);

}  // namespace coterie::cli
