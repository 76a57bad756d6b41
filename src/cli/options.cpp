#include "cli/options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <random>
#include <tuple>

#include "base/error.h"
#include "base/memory.h"
#include "base/plural.h"
#include "cli/command_files.h"
#include "cli/help.h"
#include "cli/print_stream.h"
#include "cli/ranks.h"
#include "cli/router_option.h"
#include "cli/sizes.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "families/recommended_sampling.h"
#include "tensor/dtype.h"
#include "threads/topology.h"

namespace coterie::cli {

namespace {

template <typename Number>
bool parse_number(std::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// ID=BIAS, ID+BIAS or ID-BIAS.
std::pair<text::TokenId, float> parse_bias(const std::string& argument) {
  const size_t mark = argument.find_first_of("=+-", 1);
  std::pair<text::TokenId, float> bias;
  if (mark != std::string::npos && parse_number(std::string_view(argument).substr(0, mark), bias.first)) {
    std::string_view value = std::string_view(argument).substr(mark + 1);
    const bool minus = argument[mark] == '-';
    if (value == "inf" && minus) return {bias.first, -INFINITY};
    if (value == "-inf" && argument[mark] == '=') return {bias.first, -INFINITY};
    if (argument[mark] == '=' && value.starts_with("+")) value.remove_prefix(1);
    if (parse_number(value, bias.second) && (argument[mark] == '=' || bias.second >= 0))
      return {bias.first, minus ? -bias.second : bias.second};
  }
  base::fail(base::ErrorKind::bad_input, "--logit-bias", "\"{}\" is not ID=BIAS, such as 1234=-5 or 1234+2.5",
             argument);
}

}  // namespace

std::pair<std::filesystem::path, double> read_adapter_option(const std::string& argument) {
  const size_t colon = argument.rfind(':');
  double factor = 1;
  if (colon == std::string::npos || colon == 0 || std::filesystem::exists(argument) ||
      !parse_number(std::string_view(argument).substr(colon + 1), factor))
    return {argument, 1};
  if (!std::isfinite(factor))
    base::fail(base::ErrorKind::bad_input, "--adapter", "the scale of \"{}\" is not a finite number", argument);
  return {argument.substr(0, colon), factor};
}

CLI::Validator at_least(int64_t least) { return between(least, std::numeric_limits<int64_t>::max()); }

CLI::Validator between(int64_t least, int64_t most) {
  return CLI::Validator(
      [=](std::string& text) {
        int64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        const bool whole = end == text.data() + text.size();
        if (error == std::errc::result_out_of_range && whole) return fmt::format("{} is too large a number", text);
        if (error != std::errc() || !whole) return fmt::format("is \"{}\", expected a whole number", text);
        if (value < least && most == std::numeric_limits<int64_t>::max())
          return fmt::format("is {}, expected at least {}", value, least);
        return value < least || value > most ? fmt::format("is {}, expected {} to {}", value, least, most)
                                             : std::string();
      },
      "");
}

CLI::Option* add_threads(CLI::App& app, int& threads) {
  return app.add_option("-t,--threads", threads, "Worker threads (default: one for each physical core)")
      ->type_name("N")
      ->check(between(1, 4096))
      ->each([](const std::string& text) {
        int wanted = 0;
        const auto there = static_cast<int>(std::ssize(threads::Topology::read().cpus));
        if (parse_number(text, wanted) && wanted > there)
          print_warning(fmt::format("--threads {} on {} {}: threads that take turns on one are slower than fewer",
                                    wanted, there, there == 1 ? "processor" : "processors"));
      });
}

void ModelOptions::add_model_or_gate(CLI::App& app) {
  add_model_as(app, "A folder with config.json and safetensors, a .gguf file, or an ensemble (coterie gate)");
}

void ModelOptions::add_model(CLI::App& app) {
  add_model_as(app, "A folder with config.json and safetensors, or a .gguf file");
}

void ModelOptions::add_model_as(CLI::App& app, const std::string& text) {
  const Heading heading(app, kInput);
  app.add_option("MODEL,-m,--model", model, text)->type_name("MODEL")->check(reads())->required();
}

void ModelOptions::add_routing(CLI::App& app) {
  const Heading heading(app, kRouting);
  app.add_option("--experts-per-token", experts_per_token, "Route to K experts instead of the checkpoint's number")
      ->type_name("K");
  app.add_option("--router", router,
                 "sample:T draws experts in proportion to their probabilities at temperature T; noise, jitter[:E],\n"
                 "capacity[:F[:position|:probability][:next-best]] do what training does, as the model's config asks "
                 "or with the given E and\nF; separate several by commas")
      ->type_name("RULE");
  app.add_flag("--strict", strict, "Refuse config keys that nothing here knows, instead of warning");
}

void ModelOptions::add_adapter(CLI::App& app) {
  const Heading heading(app, kInput);
  app.add_option(
         "--adapter,--lora", adapter,
         "Add an adapter (LoRA, as peft and coterie tune write it) to the weights; what it adds is multiplied by SCALE")
      ->type_name("DIR[:SCALE]")
      ->check(reads(Reads::adapter));
}

void ModelOptions::add_engine(CLI::App& app, bool with_context) {
  remember_model_options(app, *this);
  const Heading heading(app, kMachine);
  add_threads(app, threads);
  if (with_context)
    app.add_option("-c,--context,--ctx-size", context,
                   "Tokens of prompt and answer together (default: as many as the model was made for)")
        ->type_name("N")
        ->check(at_least(1));
  rope.add(app);
  app.add_option("--precision", precision,
                 "fast: int8 activations on block formats; f32: decode weights, all sums in f32")
      ->type_name("P")
      ->check(CLI::IsMember({"fast", "f32"}))
      ->capture_default_str();
  CLI::Option* budget =
      app.add_option("--memory", memory,
                     "Memory this process may take, such as 8G (default: what the machine or its cgroup has, less a "
                     "reserve); where the\nweights are more, experts are read from the disk as they are needed")
          ->type_name("SIZE")
          ->check(size_problem);
  app.add_option("--disk-reader", disk_reader,
                 "How experts are then read: by threads, by uring (io_uring), or buffered (through the page cache)")
      ->type_name("R")
      ->check(CLI::IsMember({"threads", "uring", "buffered"}))
      ->capture_default_str();
  app.add_option("--look-ahead", look_ahead,
                 "Whether experts are read before the layer that wants them is reached, as its router guesses: auto "
                 "compares the speed\nwith it and without while decoding; changes no result")
      ->type_name("W")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  app.add_flag("--file-pages", file_pages,
               "Read the weights from the file as it is mapped (mmap) and copy nothing; otherwise they are copied into "
               "memory in the order the kernels read, while there is room")
      ->excludes(budget);
  app.add_option("--split", split,
                 "Over ranks (mpirun -n N): divide the experts of each layer, the rows of each weight (one user's "
                 "latency), or the\nlayers; auto measures the network, predicts each, and takes the fastest that fits "
                 "(default: experts)")
      ->type_name("S")
      ->check(CLI::IsMember({"experts", "rows", "layers", "auto"}));
  CLI::Option* placed =
      app.add_option(
             "--placement", placement,
             "Over ranks by experts: place them by how often each was used, in a trace (coterie trace) or a file "
             "of routes, so\nthat ranks have about as much to do")
          ->type_name("FILE")
          ->check(reads());
  app.add_option("--hot-experts", hot_experts, "With --placement: every rank has the N most used experts of each layer")
      ->type_name("N")
      ->check(at_least(0))
      ->needs(placed);
  app.add_option(
         "--cache-type", cache_type,
         "The type of cached keys and values: f32, f16, bf16 or q8_0 (default: f16, and f32 with --precision f32)")
      ->type_name("T")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}));
}

families::OpenOptions ModelOptions::open_options() const {
  families::OpenOptions options;
  options.strict = strict;
  options.experts_per_token = experts_per_token;
  options.rope = rope.options(context);
  if (!router.empty()) read_router_option(router, options);
  if (!adapter.empty()) std::tie(options.adapter, options.adapter_factor) = read_adapter_option(adapter);
  return options;
}

runtime::EngineOptions ModelOptions::engine_options() const {
  if ((!split.empty() || !placement.empty()) && !on_ranks())
    throw base::Error(base::ErrorKind::bad_input, split.empty() ? "--placement" : "--split",
                      "divides a model over ranks, and this run has one",
                      "mpirun -n N coterie … starts several (docs/guides/cluster.md)");
  runtime::EngineOptions options;
  options.threads = threads;
  options.context = context;
  options.precision = precision == "f32" ? ops::Precision::f32 : ops::Precision::fast;
  if (!cache_type.empty()) options.cache_type = tensor::dtype_by_name(cache_type);
  options.move_weights = !file_pages;
  options.drafted = drafted;
  if (!memory.empty()) options.memory = bytes_option("--memory", memory);
  options.disk_reader = disk_reader == "uring"      ? runtime::DiskReader::uring
                        : disk_reader == "buffered" ? runtime::DiskReader::buffered
                                                    : runtime::DiskReader::threads;
  options.look_ahead = look_ahead == "on"    ? runtime::LookAhead::on
                       : look_ahead == "off" ? runtime::LookAhead::off
                                             : runtime::LookAhead::automatic;
  options.on_note = [](const std::string& note) { print_note(note); };
  add_ranks(options);
  return options;
}

CLI::Option* add_force(CLI::App& app, bool& force) {
  return app.add_flag("--force", force, "Replace an existing file; a folder is never overwritten");
}

void refuse_existing_output(const std::filesystem::path& out, bool force) {
  std::error_code code;
  if (!std::filesystem::exists(out, code)) return;
  const bool folder = std::filesystem::is_directory(out, code);
  if (folder ? std::filesystem::is_empty(out, code) : force) return;
  throw base::Error(base::ErrorKind::bad_input, out.string(), "already exists",
                    folder ? "choose a folder that does not exist yet, or delete this one"
                           : "choose another name, or --force to replace it");
}

void warn_about(const families::Model& model) {
  for (const std::string& warning : model.warnings) print_warning(warning);
}

runtime::Engine open_engine(const ModelOptions& options) {
  families::Model model = open_for_engine(options);
  warn_about(model);
  return runtime::Engine(std::move(model), options.engine_options());
}

runtime::Engines open_engines(const ModelOptions& options) {
  if (!on_ranks() && families::is_ensemble(options.model)) {
    if (!options.adapter.empty())
      throw base::Error(base::ErrorKind::bad_input, "--adapter",
                        "applies to one model, and this is an ensemble of several",
                        "coterie merge-adapter writes a model with it, which an ensemble can take");
    runtime::Engines engines(options.model, options.open_options(), options.engine_options());
    for (const auto& engine : engines.all()) warn_about(engine->model());
    return engines;
  }
  families::Model model = open_for_engine(options);
  warn_about(model);
  return runtime::Engines(std::move(model), options.engine_options());
}

text::ChatTemplate chosen_template(const runtime::Engines& engines, const runtime::Engine& answers,
                                   const std::string& file) {
  const text::ChatTemplate* const own = engines.chat_template(answers);
  const families::Model& model = answers.model();
  if (file.empty() && own) return *own;
  if (file.empty())
    throw base::Error(base::ErrorKind::unsupported, engines.name(), "has no chat template",
                      "coterie run continues plain text; --chat-template FILE gives a template");
  const auto special = [&](std::optional<text::TokenId> id) {
    return id && model.tokenizer ? model.tokenizer->token(*id).value_or("") : std::string();
  };
  const auto ends = model.tokenizer ? model.tokenizer->end_tokens() : std::vector<text::TokenId>{};
  return text::ChatTemplate(file_contents(file), model.tokenizer ? special(model.tokenizer->bos()) : "",
                            ends.empty() ? "" : special(ends.front()), file);
}

void SamplingOptions::add(CLI::App& command) {
  app = &command;
  const Heading heading(command, kSampling);
  command
      .add_option("-n,--tokens,--n-predict,--predict", tokens,
                  "Tokens to generate at most; -1: no limit, until the model ends its text")
      ->type_name("N")
      ->check(at_least(-1))
      ->capture_default_str();
  CLI::Option* heat =
      command
          .add_option(
              "--temperature,--temp", temperature,
              "Logits are divided by it; 0 = greedy. What the model's file recommends takes the place of this and "
              "the next defaults")
          ->capture_default_str();
  command.add_flag("--greedy", greedy, "Always the most probable token (the same as --temperature 0)")->excludes(heat);
  command.add_option("--top-k", top_k, "Only the k most probable tokens; 0 = off")
      ->check(at_least(0))
      ->capture_default_str();
  command.add_option("--top-p", top_p, "Only the most probable tokens that sum to p; 1 = off")->capture_default_str();
  command.add_option("--min-p", min_p, "Only tokens with this share of the best one's probability; 0 = off")
      ->capture_default_str();
  command.add_option("--typical,--typical-p", typical, "Only the most typical tokens that sum to this mass; 1 = off")
      ->capture_default_str();
  rules.add(command);
  command.add_option("--repeat-penalty", repeat_penalty, "Divides the logits of recent tokens; 1 = off")
      ->capture_default_str();
  command.add_option("--repeat-last-n", repeat_last_n, "How many tokens count as recent; -1 = all, 0 = none")
      ->capture_default_str();
  command.add_option("--presence-penalty", presence_penalty, "Subtracted from the logits of recent tokens")
      ->capture_default_str();
  command.add_option("--frequency-penalty", frequency_penalty, "The same, for each time they occurred")
      ->capture_default_str();
  command
      .add_option("--logit-bias", logit_bias,
                  "Added to a token's logit, such as 1234=-5 (=-inf forbids it); repeatable")
      ->type_name("ID=BIAS")
      ->allow_extra_args(false);
  command
      .add_option("-s,--seed", seed, "The seed of the random draws (default: a new one each time, shown at the end)")
      ->type_name("N")
      ->check(at_least(0));
  command.add_flag("--ignore-eos", ignore_end, "Continue where the model would end its text");
  command
      .add_option("-r,--stop,--reverse-prompt", stop,
                  "End before this text appears; \\n and \\t are understood; repeatable")
      ->type_name("TEXT")
      ->allow_extra_args(false);
}

std::string SamplingOptions::adopt(const families::Model& model) {
  std::string taken;
  const families::RecommendedSampling recommended = families::recommended_sampling(model);
  const auto take = [&](std::string_view name, const char* option, auto& value) {
    const auto found = recommended.find(name);
    if (found == recommended.end() || (app && app->get_option(option)->count() > 0)) return;
    value = static_cast<std::remove_reference_t<decltype(value)>>(found->second);
    taken += fmt::format("{}{} {}", taken.empty() ? "" : ", ", option, value);
  };
  if (!greedy) {
    take("temperature", "--temperature", temperature), take("top_k", "--top-k", top_k);
    take("top_p", "--top-p", top_p), take("min_p", "--min-p", min_p), take("typical", "--typical", typical);
  }
  take("repeat_penalty", "--repeat-penalty", repeat_penalty);
  take("repeat_last_n", "--repeat-last-n", repeat_last_n);
  return taken;
}

runtime::GenerationOptions SamplingOptions::generation_options() {
  if (!seed) seed = std::random_device{}();
  runtime::GenerationOptions options;
  runtime::SamplerOptions& sampler = options.sampler;
  sampler.temperature = greedy ? 0 : temperature;
  sampler.top_k = top_k, sampler.top_p = top_p, sampler.min_p = min_p, sampler.typical = typical;
  sampler.repeat_penalty = repeat_penalty, sampler.repeat_last_n = repeat_last_n;
  sampler.presence_penalty = presence_penalty, sampler.frequency_penalty = frequency_penalty;
  rules.set(sampler);
  for (std::string& text : sampler.dry_sequence_breakers) text = unescaped(text);
  for (const std::string& bias : logit_bias) sampler.logit_bias.push_back(parse_bias(bias));
  sampler.seed = *seed;
  options.max_tokens = tokens;
  options.ignore_end = ignore_end;
  for (const std::string& text : stop) options.stop.push_back(unescaped(text));
  return options;
}

std::string describe(const runtime::GenerationStatistics& statistics, runtime::Finish finish,
                     std::optional<uint64_t> seed) {
  std::string text = "prompt " + base::plural(statistics.prompt_tokens, "token");
  if (statistics.reused_tokens > 0)
    text += fmt::format(" ({} from the cache, {} evaluated)", statistics.reused_tokens,
                        statistics.prompt_tokens - statistics.reused_tokens);
  if (statistics.prompt_seconds > 0) text += fmt::format(", {:.1f} t/s", statistics.prompt_tokens_per_second());
  text += " · generated " + base::plural(statistics.generated_tokens, "token");
  if (statistics.generated_tokens > 1) text += fmt::format(", {:.1f} t/s", statistics.decode_tokens_per_second());
  text += fmt::format(" · {}", name(finish));
  if (seed) text += fmt::format(" · seed {}", *seed);
  return text;
}

std::string describe_reads(runtime::Engine& engine) {
  const std::optional<runtime::StreamReport> report = engine.bytes().stream_report();
  return report ? reads_words(*report) : std::string();
}

void print_reads(runtime::Engine& engine) {
  if (const std::string reads = describe_reads(engine); !reads.empty()) print_note(reads);
}

}  // namespace coterie::cli
