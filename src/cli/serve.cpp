#include <fmt/format.h>

#include <csignal>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/print_stream.h"
#include "cli/ranks.h"
#include "cli/serve_options.h"
#include "cli/served_models.h"
#include "cli/terminal.h"
#include "serve/api/service.h"

namespace coterie::cli {

namespace {

volatile std::sig_atomic_t stop_signals = 0;
void count_signal(int) { stop_signals = stop_signals + 1; }

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = count_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // of clients that have gone
}

void announce(const ServeOptions& options, const serve::Shelf& shelf, uint16_t port) {
  for (const serve::ShelvedModel& each : shelf.all()) {
    if (!each.ready) {
      print_note(fmt::format("{}: {}, loaded when it is first asked for", each.name, each.path));
      continue;
    }
    const serve::ServedModel& model = *each.ready->served;
    const serve::SchedulerOptions scheduler = each.ready->backend->options();
    print_note(fmt::format("{}: context {} tokens, weights {}, cache budget {}, {} sequences at once", model.name,
                           model.context, base::human_bytes(model.file_bytes),
                           base::human_bytes(scheduler.cache_memory), scheduler.parallel));
    if (!model.chat_template) print_note("the model has no chat template: /v1/completions alone continues text");
  }
  if (!options.unix_path.empty()) print(fmt::format("listening on unix:{}\n", options.unix_path));
  bool loopback = true;
  for (const std::string& host : options.addresses()) {
    print(fmt::format("listening on http://{}:{}\n", host.find(':') != std::string::npos ? "[" + host + "]" : host,
                      port));
    loopback &= host == "localhost" || host == "::1" || host.starts_with("127.");
  }
  if (!loopback && options.keys.empty())
    print_warning(
        fmt::format("anybody who reaches {} may use this server: --api-key-file FILE asks for a key", options.host));
}

int serve_command(ServeOptions& options) {
  options.read_keys();
  const std::unique_ptr<serve::ModelShelf> shelf = served_models(options);
  serve::ServiceOptions service_options = options.service();
  std::mutex log_mutex;
  if (!options.quiet)
    service_options.log = [&](const std::string& line) {
      const std::lock_guard lock(log_mutex);
      std::cerr << line + "\n" << std::flush;
    };
  serve::Service service(*shelf, std::move(service_options));
  catch_signals();
  service.start();
  announce(options, *shelf, service.port());
  const auto wait_until = [&](const std::function<bool()>& ended, int milliseconds) {
    try {
      for (; !ended(); std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds))) require_all_ranks();
    } catch (const base::Error&) {
      // Steps fail by themselves, and with them what was open; who asked is told before the run ends.
      service.drain();
      const base::Stopwatch clock;
      while (!service.idle() && clock.seconds() < 2) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      throw;
    }
  };
  wait_until([] { return stop_signals > 0; }, 100);
  if (!service.idle()) print_note("stopping: what runs goes on to its end; the same signal again ends it now");
  service.drain();
  wait_until([&] { return stop_signals > 1 || service.idle(); }, 20);
  for (const serve::ShelvedModel& each : shelf->all())
    if (each.ready)
      if (const auto reads = each.ready->backend->snapshot().reads)
        print_note(fmt::format("{}: {}", each.name, reads_words(*reads)));
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
      "  coterie serve --model small=./Qwen3-0.6B --model large=./Qwen3-30B-A3B --models-memory 24G\n"
      "  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'");
  command->callback([=, &action] {
    options->read_models();
    action = [options] { return serve_command(*options); };
  });
}

}  // namespace coterie::cli
