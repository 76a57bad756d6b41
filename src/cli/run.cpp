#include <fmt/format.h>

#include <exception>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/experts_used.h"
#include "cli/gate_words.h"
#include "cli/options.h"
#include "cli/terminal.h"

namespace coterie::cli {

namespace {

struct RunOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::string prompt, file, system, chat_template;
  bool chat = false, raw = false, json = false, quiet = false, experts = false;
};

std::string prompt_text(const RunOptions& options) {
  std::string text = options.file.empty() ? text_or_file(options.prompt) : file_contents(options.file);
  if (text.empty()) base::fail(base::ErrorKind::bad_input, "prompt", "is empty: there is nothing to continue");
  return text;
}

std::vector<text::TokenId> prompt_ids(const RunOptions& options, const runtime::Engines& engines,
                                      const runtime::Engine& engine, const std::string& text) {
  const text::Tokenizer& tokenizer = engine.tokenizer();
  if (!options.chat) return tokenizer.encode(text, !options.raw);
  const text::ChatTemplate chat_template = chosen_template(engines, engine, options.chat_template);
  std::vector<text::Message> messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  messages.push_back({"user", text});
  return tokenizer.encode(chat_template.render(messages, true), false);
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

int run_command(RunOptions& options) {
  runtime::GenerationOptions generation_options = options.sampling.generation_options();
  runtime::Engines engines = open_engines(options.model);
  const std::string text = prompt_text(options);
  runtime::Engine& engine = engines.choose(std::string_view(text));
  const std::vector<text::TokenId> ids = prompt_ids(options, engines, engine, text);
  std::optional<layers::RouterLoads> loads;
  if (options.experts) loads = experts_listener(engine);

  InterruptFlag interrupt;
  Progress progress;
  generation_options.interrupt = &interrupt.flag();
  if (!options.json) generation_options.on_text = [&](std::string_view piece) { progress.clear(), print(piece); };

  runtime::Generation generation(engine, ids, std::move(generation_options));
  runtime::Generation* const one = &generation;
  while (!generation.finished()) {
    const size_t evaluated = generation.tokens().ids.size();
    if (evaluated < ids.size() && ids.size() > static_cast<size_t>(engine.step_tokens()))
      progress.show(fmt::format("reading the prompt: {} of {} tokens", evaluated, ids.size()));
    step(engine, {&one, 1}, loads ? &*loads : nullptr);
  }
  progress.clear();
  if (generation.error()) std::rethrow_exception(generation.error());
  if (options.json) {
    base::Json json = as_json(generation, *options.sampling.seed);
    if (loads) json["experts"] = experts_as_json(*loads, engines.parts(engine));
    add_gate_report(engines.report(), json);
    print(json.dump(2, ' ', false, base::Json::error_handler_t::replace) + "\n");
  } else {
    print("\n");
    if (loads) print(describe_experts(*loads, engines.parts(engine)));
  }
  if (!options.quiet) {
    if (const std::string gate = describe_last(engines.report()); !gate.empty()) print_note(gate);
    const bool drawn = !options.sampling.greedy && options.sampling.temperature > 0;
    print_note(describe(generation.statistics(), generation.finish(),
                        drawn || !options.model.router.empty() ? options.sampling.seed : std::nullopt));
  }
  return generation.finish() == runtime::Finish::interrupted ? base::exit_code(base::ErrorKind::interrupted) : 0;
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  auto options = std::make_shared<RunOptions>();
  options->sampling.tokens = 256;
  CLI::App* command = app.add_subcommand("run", "Continue a text, streaming to standard output");
  options->model.add_model_or_gate(*command);
  CLI::Option* prompt =
      command->add_option("-p,--prompt", options->prompt, "The text to continue; @FILE reads it from a file")
          ->type_name("TEXT");
  CLI::Option* file =
      command->add_option("-f,--file", options->file, "Read the prompt from a file; - is standard input")
          ->type_name("FILE")
          ->excludes(prompt);
  CLI::Option* chat =
      command->add_flag("--chat", options->chat, "Put the prompt as a user's message through the chat template");
  command->add_option("--system", options->system, "With --chat: the system message; @FILE reads it from a file")
      ->type_name("TEXT")
      ->needs(chat);
  command->add_option("--chat-template", options->chat_template, "With --chat: a Jinja file instead of the model's own")
      ->type_name("FILE")
      ->needs(chat);
  command->add_flag("--raw", options->raw, "Add no special tokens (such as a BOS) to the prompt")->excludes(chat);
  command->add_flag("--json", options->json, "Print one JSON object at the end instead of streaming");
  command->add_flag("--experts", options->experts, "At the end: which experts the tokens went to, layer by layer");
  command->add_flag("-q,--quiet", options->quiet, "No line of statistics");
  options->sampling.add(*command);
  options->model.add_routing(*command);
  options->model.add_adapter(*command);
  options->model.add_engine(*command, true);
  command->footer(
      "Examples:\n"
      "  coterie run model.gguf -p \"The capital of France is\" -n 32 --greedy\n"
      "  coterie run ./OLMoE-1B-7B --file story.txt --temperature 1 --top-p 0.9 --seed 7\n"
      "  coterie run model.gguf --chat -p \"Why is the sky blue?\" --stop \"\\n\\n\"\n"
      "  coterie run ./Mixtral-8x7B -p @prompt.txt --experts-per-token 3 --router sample:0.5");
  command->callback([=, &action] {
    if (prompt->count() + file->count() == 0) throw CLI::RequiredError("--prompt or --file");
    options->system = text_or_file(options->system);
    action = [options] { return run_command(*options); };
  });
}

}  // namespace coterie::cli
