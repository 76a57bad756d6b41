#include <fmt/format.h>

#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/constraint_options.h"
#include "cli/experts_live.h"
#include "cli/experts_used.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/print_ensemble.h"
#include "cli/prompt_source.h"
#include "cli/run_lines.h"
#include "cli/speculate_options.h"
#include "cli/terminal.h"
#include "cli/text_input.h"

namespace coterie::cli {

namespace {

struct RunOptions {
  ModelOptions model;
  SamplingOptions sampling;
  ConstraintOptions constraint;
  SpeculateOptions speculate;
  PromptSource source;
  std::string system, chat_template, jsonl, out;
  int64_t batch = 8;
  std::string experts;  // "", "end" or "live"
  bool chat = false, raw = false, json = false, quiet = false;
};

std::string prompt_text(const RunOptions& options) {
  std::string text = options.source.read();
  if (text.empty()) base::fail(base::ErrorKind::bad_input, "prompt", "is empty: there is nothing to continue");
  return text;
}

/// `constraint` becomes what the answer has to be.
std::vector<text::TokenId> prompt_ids(const RunOptions& options, const runtime::Engines& engines,
                                      const runtime::Engine& engine, const std::string& text,
                                      std::optional<text::Constraint>& constraint) {
  const text::Tokenizer& tokenizer = engine.tokenizer();
  if (!options.chat) {
    constraint = options.constraint.make(tokenizer);
    return tokenizer.encode(text, !options.raw);
  }
  const text::ChatTemplate chat_template = chosen_template(engines, engine, options.chat_template);
  std::vector<text::Message> messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  messages.push_back({"user", text});
  const std::string prompt = chat_template.render(messages, true);
  constraint = options.constraint.make(tokenizer, chat_template, prompt);
  return tokenizer.encode(prompt, false);
}

base::Json as_json(const runtime::Generation& generation, uint64_t seed) {
  const runtime::GenerationStatistics& statistics = generation.statistics();
  return {{"text", generation.text()},
          {"tokens", std::vector<text::TokenId>(generation.generated().begin(), generation.generated().end())},
          {"finish", name(generation.finish())},
          {"seed", seed},
          {"prompt_tokens", statistics.prompt_tokens},
          {"reused_tokens", statistics.reused_tokens},
          {"evaluated_tokens", statistics.evaluated_tokens},
          {"generated_tokens", statistics.generated_tokens},
          {"prompt_seconds", statistics.prompt_seconds},
          {"decode_seconds", statistics.decode_seconds},
          {"prompt_tokens_per_second", statistics.prompt_tokens_per_second()},
          {"decode_tokens_per_second", statistics.decode_tokens_per_second()}};
}

void add_speculation(const runtime::Speculator& speculator, base::Json& json) {
  json["draft_steps"] = speculator.statistics().steps;
  json["drafted_tokens"] = speculator.statistics().drafted;
  json["accepted_tokens"] = speculator.statistics().accepted;
}

int run_command(RunOptions& options) {
  options.speculate.check(options.model, !options.experts.empty());
  if (!options.jsonl.empty()) {
    options.system = text_or_file(options.system, "--system");
    return run_lines({options.model, options.sampling, options.constraint, options.speculate, options.jsonl,
                      options.out, options.system, options.chat_template, options.batch, options.chat, options.raw,
                      options.quiet});
  }
  runtime::GenerationOptions generation_options = options.sampling.generation_options();
  options.system = text_or_file(options.system, "--system");
  const std::string text = prompt_text(options);
  runtime::Engines engines = open_engines(options.model);
  runtime::Engine& engine = engines.choose(std::string_view(text));
  if (const std::string taken = options.sampling.adopt(engine.model()); !taken.empty()) {
    generation_options.sampler = options.sampling.generation_options().sampler;
    if (!options.quiet && !options.json) print_note("as this model recommends: " + taken);
  }
  const std::vector<text::TokenId> ids = prompt_ids(options, engines, engine, text, generation_options.constraint);
  std::optional<lens::RouterLoads> loads;
  // The end of a dense ensemble's strip has no experts to count.
  if (!options.experts.empty() && (options.experts == "end" || !is_gated(engine) || has_routers(engine)))
    loads = experts_listener(engine);
  std::optional<LiveExperts> live = live_experts(options.experts, engine);
  if (live && options.json) base::fail(base::ErrorKind::bad_input, "--experts", "=live and --json both print");
  layers::Observers observers{loads ? &*loads : nullptr, live ? &*live : nullptr};

  const std::unique_ptr<runtime::Speculation> speculation = options.speculate.open(engine, options.model);
  const std::unique_ptr<runtime::Speculator> speculator = speculation ? speculation->speculator() : nullptr;
  generation_options.speculator = speculator.get();

  InterruptFlag interrupt;
  Progress progress;
  generation_options.interrupt = &interrupt.flag();
  interrupt.announce(true);  // reading a long prompt may take a moment to stop
  base::Stopwatch since_first;
  std::vector<double> token_seconds;  // when each token came, after the first
  generation_options.on_token = [&](text::TokenId id) {
    interrupt.announce(false);
    if (token_seconds.empty()) since_first.restart();
    token_seconds.push_back(token_seconds.empty() ? 0 : since_first.seconds());
    if (live) progress.clear(), print(live->next(id));
  };
  if (!options.json && !live)
    generation_options.on_text = [&](std::string_view piece) { progress.clear(), print(piece); };

  runtime::Generation generation(engine, ids, std::move(generation_options));
  runtime::Generation* const one = &generation;
  while (!generation.finished()) {
    const size_t evaluated = generation.tokens().ids.size();
    if (evaluated < ids.size() && ids.size() > static_cast<size_t>(engine.step_tokens()))
      progress.show(fmt::format("reading the prompt: {} of {} tokens", evaluated, ids.size()));
    step(engine, {&one, 1}, observers.get());
  }
  progress.clear();
  if (generation.error()) std::rethrow_exception(generation.error());
  if (options.json) {
    base::Json json = as_json(generation, *options.sampling.seed);
    json["token_seconds"] = token_seconds;
    if (loads) json["experts"] = experts_as_json(*loads, engines.parts(engine));
    if (speculator) add_speculation(*speculator, json);
    add_gate_report(engines.report(), json);
    print(json.dump(2, ' ', false, base::Json::error_handler_t::replace) + "\n");
  } else {
    print(live ? live->last() : "\n");
    if (loads) print(describe_experts(*loads, engines.parts(engine)));
  }
  if (!options.quiet && !generation.fits_constraint())
    print_note(fmt::format("warning: the text was cut off ({}) before it was what {} asks for",
                           name(generation.finish()), options.constraint.name()));
  if (!options.quiet) {
    if (const std::string gate = describe_last(engines.report()); !gate.empty()) print_note(gate);
    if (speculator) print_note(describe(*speculator));
    const bool drawn = !options.sampling.greedy && options.sampling.temperature > 0;
    print_note(describe(generation.statistics(), generation.finish(),
                        drawn || !options.model.router.empty() ? options.sampling.seed : std::nullopt));
    print_reads(engine);
  }
  return generation.finish() == runtime::Finish::interrupted ? interrupted_code() : 0;
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  auto options = std::make_shared<RunOptions>();
  options->sampling.tokens = 256;
  CLI::App* command = app.add_subcommand("run", "Continue a text, streaming to standard output");
  options->model.add_model_or_gate(*command);
  options->source.add(*command, "The text to continue");
  {
    const Heading heading(*command, kInput);
    command
        ->add_option("--jsonl", options->jsonl, "Answer every line of a file: {\"prompt\": …} or {\"messages\": […]}")
        ->type_name("FILE")
        ->check(reads())
        ->excludes("--prompt")
        ->excludes("--file")
        ->excludes("--escape");
    CLI::Option* chat =
        command->add_flag("--chat", options->chat, "Put the prompt as a user's message through the chat template");
    command
        ->add_option("--system,--system-prompt", options->system,
                     "With --chat: the system message; @FILE reads it from a file")
        ->type_name("TEXT")
        ->check(reads(Reads::text))
        ->check(may_be_empty())
        ->needs(chat);
    command
        ->add_option("--chat-template", options->chat_template, "With --chat: a Jinja file instead of the model's own")
        ->type_name("FILE")
        ->check(reads())
        ->needs(chat);
    command->add_flag("--raw", options->raw, "Add no special tokens (such as a BOS) to the prompt")->excludes(chat);
  }
  options->model.add_adapter(*command);
  {
    const Heading heading(*command, kOutput);
    command->add_flag("--json", options->json, "Print one JSON object at the end instead of streaming")
        ->excludes("--jsonl");
    add_experts(*command, options->experts)->excludes("--jsonl");
    command->add_flag("-q,--quiet", options->quiet, "Print no line of statistics");
    command
        ->add_option("-o,--output", options->out,
                     "With --jsonl: append a line of JSON for each prompt to this file, and go on where it ends")
        ->type_name("FILE")
        ->check(writes())
        ->needs("--jsonl");
  }
  options->constraint.add(*command);
  options->sampling.add(*command);
  options->model.add_routing(*command);
  options->model.add_engine(*command, true);
  options->speculate.add(*command);
  {
    const Heading heading(*command, kMachine);
    command->add_option("--batch", options->batch, "With --jsonl: prompts that are answered side by side")
        ->type_name("N")
        ->check(between(1, 256))
        ->capture_default_str()
        ->needs("--jsonl");
  }
  command->footer(
      "Examples:\n"
      "  coterie run model.gguf -p \"The capital of France is\" -n 32 --greedy\n"
      "  coterie run ./OLMoE-1B-7B --file story.txt --temperature 1 --top-p 0.9 --seed 7\n"
      "  coterie run model.gguf --chat -p \"Why is the sky blue?\" --stop \"\\n\\n\"\n"
      "  coterie run model.gguf -p \"A person, as JSON: \" --json-schema person.json\n"
      "  git diff | coterie run model.gguf --chat\n"
      "  coterie run model.gguf --chat -p @file-and-what-to-change.txt --speculate ngram\n"
      "  coterie run model.gguf --jsonl prompts.jsonl -o answers.jsonl --batch 16\n"
      "  coterie run ./Mixtral-8x7B -p @prompt.txt --experts-per-token 3 --router sample:0.5");
  command->callback([=, &action] { action = [options] { return run_command(*options); }; });
}

}  // namespace coterie::cli
