#include "cli/options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdio>
#include <random>
#include <tuple>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/plural.h"
#include "cli/router_option.h"
#include "cli/terminal.h"
#include "surgery/folder.h"
#include "tensor/dtype.h"

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

// A shell hands over "\n" as two characters; in a stop string it means the line break.
std::string unescaped(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
    if (next != 'n' && next != 't' && next != '\\') {
      result += text[i];
      continue;
    }
    result += next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
    ++i;
  }
  return result;
}

}  // namespace

std::pair<std::filesystem::path, double> read_adapter_option(const std::string& argument) {
  const size_t colon = argument.rfind(':');
  double factor = 1;
  if (colon == std::string::npos || colon == 0 || std::filesystem::exists(argument) ||
      !parse_number(std::string_view(argument).substr(colon + 1), factor))
    return {argument, 1};
  if (!std::isfinite(factor))
    base::fail(base::ErrorKind::bad_input, "--adapter", "the scale of \"{}\" is no finite number", argument);
  return {argument.substr(0, colon), factor};
}

CLI::Validator at_least(int64_t least) {
  return CLI::Validator(
      [least](std::string& text) {
        int64_t value = 0;
        if (!parse_number(text, value)) return fmt::format("is \"{}\", expected a whole number", text);
        return value < least ? fmt::format("is {}, expected at least {}", value, least) : std::string();
      },
      "");
}

void add_threads(CLI::App& app, int& threads) {
  app.add_option("--threads,-t", threads, "Threads (default: one for each physical core)")->check(at_least(1));
}

void ModelOptions::add_model_or_gate(CLI::App& app) {
  app.add_option("MODEL", model,
                 "A folder with config.json and safetensors, a .gguf file, or a gate over models (coterie gate)")
      ->required();
}

void ModelOptions::add_model(CLI::App& app) {
  app.add_option("MODEL", model, "A folder with config.json and safetensors, or a .gguf file")->required();
}

void ModelOptions::add_routing(CLI::App& app) {
  app.add_option("--experts-per-token", experts_per_token, "Route to K experts instead of the checkpoint's number")
      ->type_name("K");
  app.add_option(
         "--router", router,
         "sample:T draws experts in proportion to their probabilities at temperature T; noise, jitter[:E],\n"
         "capacity[:F[:position|:probability][:next-best]] do what training does: as the model says, or by E and\n"
         "F in the place of what it says; several by commas")
      ->type_name("RULE");
  app.add_flag("--strict", strict, "Refuse config keys that nothing here knows, instead of warning");
}

void ModelOptions::add_adapter(CLI::App& app) {
  app.add_option("--adapter", adapter,
                 "Lay an adapter (LoRA, as peft and coterie tune write it) over the weights; what it adds times SCALE")
      ->type_name("DIR[:SCALE]");
}

void ModelOptions::add_engine(CLI::App& app, bool with_context) {
  app.add_option("--threads,-t", threads, "Worker threads (default: one for each physical core)")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  if (with_context)
    app.add_option("--context,-c", context, "Positions of context (default: as many as the model was made for)")
        ->type_name("N")
        ->check(at_least(1));
  rope.add(app);
  app.add_option("--precision", precision,
                 "fast: int8 activations on block formats; f32: decode weights, all sums in f32")
      ->type_name("P")
      ->check(CLI::IsMember({"fast", "f32"}))
      ->capture_default_str();
  app.add_flag("--file-pages", file_pages,
               "leave the weights in the pages of the file; otherwise they are copied in the order the kernels like, "
               "to large pages, while memory has room");
  app.add_option("--cache-type", cache_type, "f32, f16, bf16 or q8_0 (default: f16, and f32 with --precision f32)")
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
  runtime::EngineOptions options;
  options.threads = threads;
  options.context = context;
  options.precision = precision == "f32" ? ops::Precision::f32 : ops::Precision::fast;
  if (!cache_type.empty()) options.cache_type = tensor::dtype_by_name(cache_type);
  options.settle = !file_pages;
  return options;
}

CLI::Option* add_force(CLI::App& app, bool& force) {
  return app.add_flag("--force", force, "Replace a file that exists; a folder is never written over");
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

void refuse_existing_output(const families::Model& made_of, const std::filesystem::path& out, bool force) {
  surgery::refuse_same_file(made_of.path.path, out);
  refuse_existing_output(out, force);
}

void warn_about(const families::Model& model) {
  for (const std::string& warning : model.warnings) print_warning(warning);
  if (model.source && model.source->file_bytes() > base::total_memory())
    print_warning(fmt::format("the weights are {}, the memory is {}: they will be read from the disk again and again",
                              base::human_bytes(model.source->file_bytes()), base::human_bytes(base::total_memory())));
}

runtime::Engine open_engine(const ModelOptions& options) {
  families::Model model = families::open_model(options.model, options.open_options());
  warn_about(model);
  return runtime::Engine(std::move(model), options.engine_options());
}

runtime::Engines open_engines(const ModelOptions& options) {
  if (families::is_gate(options.model)) {
    if (!options.adapter.empty())
      throw base::Error(base::ErrorKind::bad_input, "--adapter",
                        "is laid over one model, and this is a gate over several",
                        "coterie merge-adapter writes a model with it, which a gate can take");
    runtime::Engines engines(options.model, options.open_options(), options.engine_options());
    for (const auto& engine : engines.all()) warn_about(engine->model());
    return engines;
  }
  families::Model model = families::open_model(options.model, options.open_options());
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
  return text::ChatTemplate(base::read_text(file), model.tokenizer ? special(model.tokenizer->bos()) : "",
                            ends.empty() ? "" : special(ends.front()), file);
}

void SamplingOptions::add(CLI::App& app) {
  app.add_option("-n,--tokens", tokens, "Tokens to generate at most; -1: until the model ends its text")
      ->type_name("N")
      ->check(at_least(-1))
      ->capture_default_str();
  CLI::Option* heat =
      app.add_option("--temperature", temperature, "Logits are divided by it; 0 = greedy")->capture_default_str();
  app.add_flag("--greedy", greedy, "Always the most probable token (the same as --temperature 0)")->excludes(heat);
  app.add_option("--top-k", top_k, "Only the k most probable tokens; 0 = off")->capture_default_str();
  app.add_option("--top-p", top_p, "Only the most probable tokens that sum to p; 1 = off")->capture_default_str();
  app.add_option("--min-p", min_p, "Only tokens with this share of the best one's probability; 0 = off")
      ->capture_default_str();
  app.add_option("--typical", typical, "Only the most typical tokens that sum to this mass; 1 = off")
      ->capture_default_str();
  rules.add(app);
  app.add_option("--repeat-penalty", repeat_penalty, "Divides the logits of recent tokens; 1 = off")
      ->capture_default_str();
  app.add_option("--repeat-last-n", repeat_last_n, "How many tokens count as recent; -1 = all, 0 = none")
      ->capture_default_str();
  app.add_option("--presence-penalty", presence_penalty, "Subtracted from the logits of recent tokens")
      ->capture_default_str();
  app.add_option("--frequency-penalty", frequency_penalty, "The same, for each time they occurred")
      ->capture_default_str();
  app.add_option("--logit-bias", logit_bias, "Added to a token's logit, such as 1234=-5 (=-inf forbids it); repeatable")
      ->type_name("ID=BIAS")
      ->allow_extra_args(false);
  app.add_option("--seed", seed, "Of the draws (default: a new one each time, shown at the end)")
      ->type_name("N")
      ->check(at_least(0));
  app.add_option("--stop", stop, "End before this text appears; \\n and \\t are understood; repeatable")
      ->type_name("TEXT")
      ->allow_extra_args(false);
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
  for (const std::string& text : stop) options.stop.push_back(unescaped(text));
  return options;
}

std::string file_contents(const std::string& path) {
  if (path != "-") return base::read_text(path);
  std::string text;
  char piece[1 << 16];
  while (const size_t got = std::fread(piece, 1, sizeof(piece), stdin)) {
    text.append(piece, got);
    if (text.size() > size_t{256} << 20)
      base::fail(base::ErrorKind::bad_input, "standard input", "is larger than 256 MiB");
  }
  return text;
}

std::string text_or_file(const std::string& argument) {
  return argument.starts_with("@") ? file_contents(argument.substr(1)) : argument;
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

}  // namespace coterie::cli
