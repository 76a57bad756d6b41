#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/plural.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/eval_choices.h"
#include "cli/expert_worth.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/output_file.h"
#include "cli/print_ensemble.h"
#include "cli/terminal.h"
#include "cli/text_windows.h"
#include "cli/token_losses.h"
#include "lens/choices.h"
#include "lens/silence.h"
#include "models/score.h"
#include "runtime/not_finite.h"

namespace coterie::cli {

namespace {

struct EvalOptions {
  ModelOptions model;
  std::string text, choices, losses;
  std::optional<int64_t> window, tokens, questions;
  std::vector<std::string> silence;
  bool json = false, truncate = false, each_expert = false, force = false;
};

/// Nothing when no expert is to be silent.
std::optional<lens::Silence> silence_of(runtime::Engines& engines, const EvalOptions& options) {
  if (options.silence.empty()) return {};
  if (engines.all().size() > 1)
    base::fail(base::ErrorKind::unsupported, "--silence", "{} has several models: name the one to evaluate",
               engines.name());
  lens::ExpertSet experts;
  for (const std::string& text : options.silence) lens::read_experts(text, "--silence", experts);
  return lens::Silence(engines.front().spec(), std::move(experts));
}

void print_gate(const runtime::Engines& engines) {
  if (const std::string gate = describe_all(engines.report()); !gate.empty()) print(gate + "\n");
}

int perplexity_command(runtime::Engines& engines, const EvalOptions& options) {
  const int64_t window = std::min(options.window.value_or(512), engines.context_size());
  const TextWindows windows(engines.front(), options.text, window, options.tokens.value_or(0));
  models::CrossEntropy cross_entropy;
  const std::optional<lens::Silence> silence = silence_of(engines, options);
  TokenLosses losses;
  std::vector<double> of_window;
  Progress progress;
  const base::Stopwatch clock;
  for (int64_t w = 0; w < windows.count(); ++w) {
    progress.show(fmt::format("window {} of {}", w + 1, windows.count()));
    const std::vector<int32_t> ids = windows.at(w);
    runtime::Engine& engine = engines.choose(std::span<const int32_t>(ids));
    runtime::KvCache cache = engine.make_cache();
    of_window.clear();
    score(engine, cache, ids, 1, cross_entropy, silence ? &*silence : nullptr, &of_window);
    if (!options.losses.empty()) losses.add(ids, of_window);
  }
  progress.clear();
  if (!std::isfinite(cross_entropy.mean())) {
    for (const auto& engine : engines.all())
      if (const std::string weight = runtime::first_not_finite(*engine->model().source); !weight.empty())
        base::fail(base::ErrorKind::bad_input, engine->model().name, "the loss is not a number: {}", weight);
    base::fail(base::ErrorKind::bad_input, engines.name(), "the loss on {} is not a number", options.text);
  }
  if (!options.losses.empty()) losses.write(options.losses, engines.name(), options.text);
  const double seconds = clock.seconds(), loss = cross_entropy.mean();
  const double perplexity = std::exp(loss), error = perplexity * cross_entropy.standard_error();
  if (options.json) {
    base::Json result = {{"model", engines.name()},
                         {"text", options.text},
                         {"isa", engines.front().isa()},
                         {"precision", options.model.precision},
                         {"window", windows.window()},
                         {"tokens", windows.tokens()},
                         {"predictions", cross_entropy.predictions()},
                         {"cross_entropy", loss},
                         {"cross_entropy_standard_error", cross_entropy.standard_error()},
                         {"perplexity", perplexity},
                         {"perplexity_standard_error", error},
                         {"seconds", seconds}};
    if (!options.silence.empty()) result["silence"] = options.silence;
    add_gate_report(engines.report(), result);
    print(result.dump(2) + "\n");
  } else {
    print(fmt::format("perplexity {:.4f} ± {:.4f} · {} in windows of {} · {} · {:.1f} s, {:.1f} tokens/s\n", perplexity,
                      error, base::plural(cross_entropy.predictions(), "prediction"), windows.window(),
                      options.model.precision, seconds, static_cast<double>(windows.tokens()) / seconds));
    print_gate(engines);
  }
  return 0;
}

int worths_command(runtime::Engines& engines, const EvalOptions& options) {
  if (engines.all().size() > 1)
    base::fail(base::ErrorKind::unsupported, "--each-expert", "{} has several models: name the one to evaluate",
               engines.name());
  runtime::Engine& engine = engines.front();
  lens::router_shape(engine.spec());  // refuses a model without choices
  const TextWindows windows(engine, options.text, std::min(options.window.value_or(512), engine.context_size()),
                            options.tokens.value_or(0));
  Progress progress;
  const InterruptFlag interrupt;
  const base::Stopwatch clock;
  const std::vector<ExpertWorth> worths = expert_worths(engine, windows, [&](const std::string& text) {
    if (interrupt.raised()) throw base::Error(base::ErrorKind::interrupted, options.text, "interrupted");
    progress.show(text);
  });
  progress.clear();
  if (options.json) {
    print(base::Json{{"model", engines.name()},
                     {"text", options.text},
                     {"isa", engine.isa()},
                     {"precision", options.model.precision},
                     {"window", windows.window()},
                     {"tokens", windows.tokens()},
                     {"experts", worths_as_json(worths)},
                     {"seconds", clock.seconds()}}
              .dump(2) +
          "\n");
    return 0;
  }
  print(describe_worths(worths));
  return 0;
}

int choices_command(runtime::Engines& engines, const EvalOptions& options) {
  std::vector<Question> questions = read_questions(options.choices);
  if (options.questions && *options.questions < std::ssize(questions))
    questions.resize(static_cast<size_t>(*options.questions));
  Progress progress;
  const base::Stopwatch clock;
  ChoiceScores scores;
  base::Json each = base::Json::array();
  int64_t truncated = 0;
  if (options.truncate && engines.all().size() > 1)
    base::fail(base::ErrorKind::unsupported, "--truncate", "a gate that chooses by prompt reads all of it");
  for (const Question& question : questions)
    truncated += check_question(engines.front().tokenizer(), engines.context_size(), question, options.truncate);
  for (const Question& question : questions) {
    progress.show(fmt::format("question {} of {}", scores.questions + 1, questions.size()));
    runtime::Engine& engine = engines.choose(std::string_view(question.prompt));
    const std::vector<double> log_probabilities = score_choices(engine, question, options.truncate);
    add_scores(question, log_probabilities, scores);
    each.push_back(log_probabilities);
  }
  progress.clear();
  if (truncated > 0)
    print_warning(fmt::format("{} longer than the context: the beginning of the prompt was left out",
                              truncated == 1 ? "1 question was" : fmt::format("{} questions were", truncated)));
  const double seconds = clock.seconds();
  const auto error = [&](int64_t count) {
    const std::optional<double> value = scores.error(count);
    return value ? base::Json(*value) : base::Json(nullptr);
  };
  // A single question has no standard error.
  const auto share = [&](double value, int64_t count) {
    const std::optional<double> off = scores.error(count);
    return off ? fmt::format("{:.4f} ± {:.4f}", value, *off) : fmt::format("{:.4f}", value);
  };
  if (options.json) {
    base::Json result = {{"model", engines.name()},
                         {"choices", options.choices},
                         {"isa", engines.front().isa()},
                         {"precision", options.model.precision},
                         {"questions", scores.questions},
                         {"accuracy", scores.accuracy()},
                         {"accuracy_standard_error", error(scores.right)},
                         {"accuracy_by_length", scores.accuracy_by_length()},
                         {"accuracy_by_length_standard_error", error(scores.right_by_length)},
                         {"truncated", truncated},
                         {"accuracy_by_chance", scores.by_chance()},
                         {"log_probabilities", each},
                         {"seconds", seconds}};
    add_gate_report(engines.report(), result);
    print(result.dump(2) + "\n");
  } else {
    print(fmt::format("accuracy {} · by length {} · chance {:.4f} · {} · {} · {:.1f} s\n",
                      share(scores.accuracy(), scores.right),
                      share(scores.accuracy_by_length(), scores.right_by_length), scores.by_chance(),
                      base::plural(scores.questions, "question"), options.model.precision, seconds));
    print_gate(engines);
  }
  return 0;
}

int eval_command(const EvalOptions& options) {
  const bool text = !options.text.empty();
  if (text == !options.choices.empty())
    base::fail(base::ErrorKind::bad_input, "eval", "expected either --text or --choices");
  if (!text && (options.window || options.tokens))
    base::fail(base::ErrorKind::bad_input, "eval", "--window and --tokens can only be used with --text");
  if (text && options.questions)
    base::fail(base::ErrorKind::bad_input, "eval", "--questions can only be used with --choices");
  if (text && options.truncate)
    base::fail(base::ErrorKind::bad_input, "eval", "--truncate can only be used with --choices");
  if (options.each_expert && (!text || !options.silence.empty()))
    base::fail(base::ErrorKind::bad_input, "--each-expert",
               "is for --text, without --silence: it silences them in turn");
  if (!options.losses.empty() && (!text || options.each_expert))
    base::fail(base::ErrorKind::bad_input, "--losses", "is for --text, without --each-expert");
  if (options.force && options.losses.empty())
    base::fail(base::ErrorKind::bad_input, "--force", "is for the file of --losses");
  if (!options.losses.empty()) refuse_output_file(options.losses, options.force);
  if (!text && !options.silence.empty()) base::fail(base::ErrorKind::bad_input, "--silence", "is for --text");
  runtime::Engines engines = open_engines(options.model);
  const int code = options.each_expert ? worths_command(engines, options)
                   : text              ? perplexity_command(engines, options)
                                       : choices_command(engines, options);
  for (const auto& engine : engines.all()) print_reads(*engine);
  return code;
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand(
      "eval", "Measure perplexity on a text, or accuracy on questions with choices, with its standard error");
  command->alias("perplexity");
  options->model.add_model_or_gate(*command);
  {
    const Heading heading(*command, kInput);
    command->add_option("--text,-f,--file", options->text, "The text, UTF-8; - is standard input")
        ->type_name("FILE")
        ->check(reads());
    command->add_option("--choices", options->choices, "Questions, a JSON object a line: prompt, choices, answer")
        ->type_name("FILE.jsonl")
        ->check(reads());
    command
        ->add_option("--window", options->window,
                     "Tokens that are read together, from an empty context; at most the context (default: 512)")
        ->type_name("N")
        ->check(at_least(2));
    command->add_option("--tokens", options->tokens, "Only the first N tokens of the text")
        ->type_name("N")
        ->check(at_least(2));
    command->add_option("--questions", options->questions, "Only the first N questions")
        ->type_name("N")
        ->check(at_least(1));
    command->add_flag(
        "--truncate", options->truncate,
        "Leave out the beginning of prompts that are longer than the context, as lm-evaluation-harness does");
  }
  options->model.add_adapter(*command);
  {
    const Heading heading(*command, kOutput);
    command->add_flag("--json", options->json, "Print JSON");
    command
        ->add_option("--losses", options->losses,
                     "Write the loss of each prediction, safetensors: ids, before, sequence, position, loss [N]")
        ->type_name("FILE")
        ->check(writes());
    add_force(*command, options->force);
  }
  options->model.add_routing(*command);
  {
    const Heading heading(*command, kRouting);
    command
        ->add_option("--silence", options->silence,
                     "Send no token to these experts: LAYER:EXPERT, LAYER:EXPERT,EXPERT; their tokens go to the best "
                     "of the others")
        ->type_name("L:E");
    command->add_flag(
        "--each-expert", options->each_expert,
        "Measure what each expert is worth: a pass over --text without it, the loss compared token by token");
  }
  options->model.add_engine(*command, false);
  command->footer(
      "The text is cut into windows, one after the other, each behind the token that begins a text where the model "
      "has\n"
      "one. Each token that has another before it in its window is predicted; the perplexity is e to the mean "
      "cross-entropy in nats. The standard error takes predictions as\n"
      "independent.\n"
      "A line of --choices is {\"prompt\": …, \"choices\": […], \"answer\": …}; question may stand for prompt, and "
      "the\n"
      "answer is the number of a choice from 0, its letter, or its text. A choice follows its prompt after a space,\n"
      "unless either has one there. The model's answer is the choice of highest probability; by length, of highest "
      "log\n"
      "probability a character.\n"
      "The gate of an ensemble by prompt reads each window, or question, before the model that it chooses does; the "
      "choice\n"
      "is worth at most ln N nats a window.\n"
      "Examples:\n"
      "  coterie eval model.gguf --text book.txt\n"
      "  coterie perplexity model.gguf -f book.txt        (the same)\n"
      "  coterie eval model.gguf --text book.txt --precision f32 --tokens 20000 --json\n"
      "  coterie eval model.gguf --choices arc-easy.jsonl\n"
      "  coterie eval model.gguf --text book.txt --silence 3:7 --losses without.safetensors\n"
      "  coterie eval model.gguf --text book.txt --tokens 5000 --each-expert");
  command->callback([=, &action] { action = [options] { return eval_command(*options); }; });
}

}  // namespace coterie::cli
