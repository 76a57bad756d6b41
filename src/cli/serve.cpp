#include <fmt/format.h>

#include <charconv>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <memory>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/fnv.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/serve_options.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "families/ensemble/ensemble_decoder.h"
#include "models/account.h"
#include "runtime/machine.h"
#include "runtime/version.h"
#include "runtime/weight_bytes.h"
#include "serve/api/service.h"
#include "serve/routes.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;

volatile std::sig_atomic_t stop_signals = 0;
void count_signal(int) { stop_signals = stop_signals + 1; }

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = count_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // of clients that have gone
}

// Everything that a bit of an answer depends on beside the request.
std::string fingerprint(const families::Model& model, const runtime::Engine& engine, const ModelOptions& options) {
  uint64_t hash = base::kFnvBegin;
  const std::string all = fmt::format(
      "{} {} {} {} {} {} {} {}", model.path.path.string(), model.source ? model.source->file_bytes() : 0, engine.isa(),
      options.precision, options.cache_type, options.router, options.adapter, options.experts_per_token.value_or(0));
  for (const unsigned char c : all) hash = base::fnv_step(hash, c);
  return fmt::format("coterie-{}-{:08x}", runtime::version(), hash & 0xffffffffU);
}

// What the page says about the cost of routing.
void add_routing(const runtime::Engine& engine, const serve::RouteLayout& routes, serve::ServedModel& served) {
  const models::ModelSpec& spec = engine.spec();
  if (dynamic_cast<const families::EnsembleDecoder*>(engine.model().decoder.get())) return;
  served.spec = spec;
  const runtime::WeightBytes bytes = runtime::weight_bytes(*engine.model().decoder);
  constexpr auto kExperts = static_cast<size_t>(models::Place::experts);
  served.dense_bytes = bytes.all_touched() - bytes.touched[kExperts];
  // Of all experts' bytes a layer has the share that it has of their parameters.
  const models::Account account = models::account(spec);
  if (account.held[kExperts] == 0) return;
  const double each = static_cast<double>(bytes.held[kExperts]) / static_cast<double>(account.held[kExperts]);
  for (size_t at = 0; at < served.routed_layers.size(); ++at) {
    const auto held = account.layers[static_cast<size_t>(served.routed_layers[at])].held[kExperts];
    served.expert_bytes.push_back(
        static_cast<int64_t>(each * static_cast<double>(held) / static_cast<double>(routes.experts[at])));
  }
}

serve::ServedModel served_model(const ServeOptions& options, const runtime::Engine& engine) {
  const families::Model& model = engine.model();
  const models::ModelSpec& spec = engine.spec();
  const text::Tokenizer& tokenizer = engine.tokenizer();
  const std::filesystem::path path = model.path.path;
  serve::ServedModel served(tokenizer);
  served.chat_template = model.chat_template;
  served.name = path.extension() == ".gguf" ? path.stem().string() : path.filename().string();
  if (served.name.empty()) served.name = path.parent_path().filename().string();
  served.aliases = options.aliases;
  if (!served.aliases.empty()) {
    served.name = served.aliases.front();
    served.aliases.erase(served.aliases.begin());
  }
  served.path = path.string();
  served.created = std::time(nullptr);
  if (!options.chat_template.empty()) {
    const auto special = [&](std::optional<text::TokenId> id) {
      return id ? tokenizer.token(*id).value_or("") : std::string();
    };
    const auto ends = tokenizer.end_tokens();
    served.chat_template.emplace(file_contents(options.chat_template), special(tokenizer.bos()),
                                 ends.empty() ? "" : special(ends.front()), options.chat_template);
  }
  served.context = engine.context_size();
  served.vocabulary = spec.vocabulary;
  served.width = spec.width;
  served.layers = std::ssize(spec.blocks);
  served.parameters = models::account(spec).total();
  served.file_bytes = model.source ? model.source->file_bytes() : 0;
  const serve::RouteLayout routes(spec);
  for (int64_t layer = 0; layer < served.layers; ++layer)
    if (routes.layer[static_cast<size_t>(layer)] >= 0) served.routed_layers.push_back(layer);
  for (const int64_t experts : routes.experts) served.experts = std::max(served.experts, experts);
  add_routing(engine, routes, served);
  served.fingerprint = fingerprint(model, engine, options.model);
  const runtime::GenerationOptions defaults = SamplingOptions(options.sampling).generation_options();
  served.sampler = defaults.sampler;
  served.seed = options.sampling.seed;
  served.max_tokens = options.sampling.tokens;
  served.ignore_end = options.sampling.ignore_end;
  served.lenient = options.lenient;
  return served;
}

void announce(const ServeOptions& options, const serve::ServedModel& model, const serve::SchedulerOptions& scheduler,
              uint16_t port) {
  print_note(fmt::format("{}: context {} tokens, weights {}, cache budget {}, {} sequences at once", model.name,
                         model.context, base::human_bytes(model.file_bytes), base::human_bytes(scheduler.cache_memory),
                         scheduler.parallel));
  if (!model.chat_template) print_note("the model has no chat template: /v1/completions alone continues text");
  if (!options.unix_path.empty()) print(fmt::format("listening on unix:{}\n", options.unix_path));
  if (port != 0)
    print(fmt::format("listening on http://{}:{}\n",
                      options.host.find(':') != std::string::npos ? "[" + options.host + "]" : options.host, port));
  const bool loopback = options.host == "localhost" || options.host == "::1" || options.host.starts_with("127.");
  if (port != 0 && !loopback && options.keys.empty())
    print_warning(
        fmt::format("anybody who reaches {} may use this server: --api-key-file FILE asks for a key", options.host));
}

int serve_command(ServeOptions& options) {
  options.read_keys();
  families::Model model = families::open_model(options.model.model, options.model.open_options());
  warn_about(model);
  serve::SchedulerOptions scheduler_options = options.scheduler();
  const runtime::EngineOptions engine_options =
      serve::engine_options(model.decoder->spec(), options.model.engine_options(), scheduler_options);
  runtime::Engine engine(std::move(model), engine_options);
  serve::ServedModel served = served_model(options, engine);
  if (const auto limits = runtime::known_limits(engine.context().pool, engine.context().kernels))
    served.read_bytes_per_second = limits->read_bytes_per_second;
  serve::Scheduler scheduler(engine, scheduler_options);
  serve::SchedulerBackend backend(scheduler);
  serve::ServiceOptions service_options = options.service();
  std::mutex log_mutex;
  if (!options.quiet)
    service_options.log = [&](const std::string& line) {
      const std::lock_guard lock(log_mutex);
      std::cerr << line + "\n" << std::flush;
    };
  serve::Service service(served, backend, std::move(service_options));
  catch_signals();
  service.start();
  announce(options, served, scheduler_options, service.port());
  while (stop_signals == 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  if (!service.idle()) print_note("stopping: what runs goes on to its end; the same signal again ends it now");
  service.drain();
  while (stop_signals < 2 && !service.idle()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  return 0;
}

}  // namespace

void add_serve(CLI::App& app, Action& action) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* command =
      app.add_subcommand("serve", "Answer programs over HTTP: the APIs of OpenAI, Anthropic and llama.cpp");
  options->add(*command);
  command->footer(
      "Any client of OpenAI's API works with the base URL http://127.0.0.1:8080/v1. The same request with the same "
      "seed\n"
      "has the same answer, whoever else is connected. SIGTERM or Ctrl-C finishes what runs; the same again ends it.\n"
      "Examples:\n"
      "  coterie serve model.gguf\n"
      "  coterie serve ./Qwen3-30B-A3B --port 0 --cache-memory 16G --api-key-file keys.txt\n"
      "  coterie serve model.gguf --listen unix:/run/coterie.sock --host \"\"\n"
      "  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'");
  command->callback([=, &action] { action = [options] { return serve_command(*options); }; });
}

}  // namespace coterie::cli
