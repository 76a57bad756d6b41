#include "cli/serve_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "cli/command_files.h"
#include "cli/help.h"
#include "cli/number_checks.h"
#include "cli/option_names.h"
#include "cli/sizes.h"
#include "cli/text_input.h"

namespace coterie::cli {

using base::ErrorKind;

ServeOptions::ServeOptions() {
  // The model's own distribution, as the APIs describe it, and room for long answers.
  sampling.tokens = 4096;
  sampling.temperature = 1;
  sampling.top_k = 0;
  sampling.top_p = 1;
  sampling.min_p = 0;
}

void ServeOptions::add(CLI::App& app) {
  add_models(app);
  {
    const Heading heading(app, kInput);
    app.add_option("-a,--alias", aliases,
                   "The model's name in the API, in the place of its file's; repeatable for more names")
        ->type_name("NAME")
        ->allow_extra_args(false);
    app.add_option("--chat-template,--chat-template-file", chat_template, "A Jinja file instead of the model's own")
        ->type_name("FILE")
        ->check(reads());
    app.add_option("--chat-template-kwargs", template_variables,
                   "Variables of chat templates, such as {\"enable_thinking\": false}, unless a request gives them")
        ->type_name("JSON")
        ->check([](const std::string& text) {
          return base::Json::parse(text, nullptr, false).is_object() ? "" : "expected a JSON object";
        });
    app.add_option("--pooling", pooling, "What embeddings are: the mean of the hidden states, or the last token's")
        ->type_name("P")
        ->check(CLI::IsMember({"mean", "last"}))
        ->capture_default_str();
  }
  model.add_adapter(app);
  add_network(app);
  add_limits(app);
  sampling.add(app);
  model.add_routing(app);
  model.add_engine(app, true);
  speculate.add(app);
}

void ServeOptions::add_models(CLI::App& app) {
  const Heading heading(app, kInput);
  app.add_option("MODEL,-m,--model", models,
                 "A folder with config.json and safetensors, a .gguf file, or an ensemble (coterie gate); NAME=PATH is "
                 "loaded when it is first asked for by that name; repeatable")
      ->type_name("MODEL|NAME=PATH")
      ->check(reads(Reads::named))
      ->required();
  app.add_option("--adapters,--lora-modules", adapters,
                 "Serve MODEL with this adapter under NAME; it is loaded when it is first asked for; repeatable")
      ->type_name("NAME=DIR[:SCALE]")
      ->check(reads(Reads::named))
      ->allow_extra_args(false);
}

void ServeOptions::add_network(CLI::App& app) {
  const Heading heading(app, "Network");
  app.add_option("--host", host,
                 "The address to listen on, or several with commas; 0.0.0.0: all of this machine's; \"\": none")
      ->type_name("ADDRESS")
      ->check(may_be_empty())
      ->capture_default_str();
  app.add_option("--port", port, "The port to listen on; 0 takes a free one and prints it")
      ->type_name("N")
      ->check(between(0, 65535))
      ->capture_default_str();
  app.add_option("--listen", unix_path, "Listen on a socket in the file system, too")
      ->type_name("unix:PATH")
      ->check([](const std::string& text) {
        return text.starts_with("unix:") && text.size() > 5 ? std::string() : "is \"" + text + "\", expected unix:PATH";
      });
  app.add_option(
         "--api-key", keys,
         "Answer only clients that give this key; repeatable. Others of this machine can read it: a file is safer")
      ->type_name("KEY")
      ->allow_extra_args(false);
  app.add_option("--api-key-file", key_file, "Read such keys from a file, one a line")
      ->type_name("FILE")
      ->check(reads());
  app.add_option("--allow-host", hosts,
                 "A name this server is called by, besides addresses and localhost; *: any; repeatable")
      ->type_name("NAME")
      ->allow_extra_args(false);
  app.add_option("--allow-origin", origins,
                 "Let pages of this origin, such as https://example.org, use the server; repeatable")
      ->type_name("ORIGIN")
      ->allow_extra_args(false);
  app.add_flag("--lenient", lenient, "Log unknown fields and model names of requests, instead of refusing them");
  app.add_option("--metrics-names", metrics, "By which program's names /metrics prints")
      ->type_name("NAMES")
      ->check(CLI::IsMember({"coterie", "vllm", "llamacpp"}))
      ->capture_default_str();
  app.add_flag("--no-metrics", no_metrics, "/metrics answers 501");
  app.add_flag("--no-slots", no_slots, "/slots answers 501");
  app.add_flag("--log-prompts", log_prompts, "Log what clients ask; otherwise no text is logged");
  app.add_flag("-q,--quiet", quiet, "Log no line for each request");
}

void ServeOptions::add_limits(CLI::App& app) {
  const Heading heading(app, "Limits");
  app.add_option("--parallel", parallel, "Requests that are answered at once; others wait")
      ->type_name("N")
      ->check(between(1, 512))
      ->capture_default_str();
  app.add_option("--max-queue", max_queue, "Requests that wait; one more is refused (429, with the time to come again)")
      ->type_name("N")
      ->check(at_least(0))
      ->capture_default_str();
  app.add_option("--max-wait", max_wait, "Refuse a request whose estimated wait is longer, in seconds; 0: any wait")
      ->type_name("S")
      ->check(number_from_zero())
      ->capture_default_str();
  app.add_option("--stall", stall_milliseconds,
                 "While anyone's answer runs, the prompts of others may hold it up for so many milliseconds at a time")
      ->type_name("MS")
      ->check(number_above_zero())
      ->capture_default_str();
  app.add_option("--cache-memory", cache_memory,
                 "Memory of keys, values and states, prefixes that are kept for later requests included, such as 8G "
                 "(default: a quarter of what is free)")
      ->type_name("SIZE");
  app.add_option("--models-memory", models_memory,
                 "Memory of all loaded models, their weights and caches; one that is idle makes room for another "
                 "(default: nine tenths of what is free)")
      ->type_name("SIZE");
  app.add_option("--unload-after", unload_after,
                 "Unload a named model that has had no request for so many seconds; 0: only to make room")
      ->type_name("S")
      ->check(number_from_zero())
      ->capture_default_str();
  CLI::Option* const folder = app.add_option("--cache-dir", cache_dir,
                                             "Keep prefixes in this folder, too, for the next server of the same model")
                                  ->type_name("DIR")
                                  ->check(reads());
  app.add_option("--cache-dir-size", cache_dir_size, "The most that may lie in that folder")
      ->type_name("SIZE")
      ->capture_default_str()
      ->needs(folder);
  app.add_flag("--no-prefix-cache", no_prefix_cache, "Keep no prefixes for later requests");
  app.add_option("--connections", connections, "Connections at once; beyond, the longest idle one is closed")
      ->type_name("N")
      ->check(between(1, 1000000))
      ->capture_default_str();
  app.add_option("--write-timeout", write_timeout, "End a stream whose reader takes nothing for so many seconds")
      ->type_name("S")
      ->check(number_above_zero())
      ->capture_default_str();
}

void ServeOptions::read_keys() {
  if (key_file.empty()) return;
  const size_t before = keys.size();
  const std::string text = file_contents(key_file);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && !line.starts_with("#")) keys.push_back(std::move(line));
  }
  if (keys.size() == before)
    throw base::Error(ErrorKind::bad_input, key_file, "holds no key", "write a key on a line of its own");
}

namespace {

// "NAME=PATH"; nothing where there is no name, or where a file is called like that.
std::optional<ServeOptions::Named> read_named(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || std::filesystem::exists(text)) return {};
  const auto good = [](unsigned char c) {
    return std::isalnum(c) || std::string_view("-_.:@+").find(c) != std::string::npos;
  };
  if (!std::all_of(text.begin(), text.begin() + static_cast<int64_t>(equals), good)) return {};
  return ServeOptions::Named{text.substr(0, equals), text.substr(equals + 1)};
}

}  // namespace

void ServeOptions::read_models() {
  for (const std::string& text : models) {
    if (auto one = read_named(text)) {
      named_models.push_back(std::move(*one));
      continue;
    }
    if (!model.model.empty())
      throw base::Error(ErrorKind::bad_input, "serve.model",
                        fmt::format("\"{}\" and \"{}\" have no names", model.model, text),
                        "write NAME=PATH for all models but one");
    model.model = text;
  }
}

std::vector<ServeOptions::Named> ServeOptions::read_adapters() const {
  std::vector<Named> named;
  for (const std::string& text : adapters) {
    auto one = read_named(text);
    if (!one || model.model.empty())
      throw base::Error(
          ErrorKind::bad_input, "serve.adapters",
          one ? "there is no model without a name that they belong to" : fmt::format("\"{}\" is not NAME=DIR", text),
          "give MODEL, and for each adapter NAME=DIR or NAME=DIR:SCALE");
    named.push_back(std::move(*one));
  }
  return named;
}

std::vector<std::string> ServeOptions::addresses() const {
  std::vector<std::string> all;
  for (size_t at = 0; at < host.size();) {
    const size_t end = std::min(host.find(',', at), host.size());
    if (end > at) all.push_back(host.substr(at, end - at));
    at = end + 1;
  }
  return all;
}

serve::SchedulerOptions ServeOptions::scheduler() const {
  serve::SchedulerOptions options;
  options.stall_seconds = stall_milliseconds / 1e3;
  options.parallel = parallel;
  options.max_queue = max_queue;
  options.max_wait_seconds = max_wait;
  options.prefix_cache = !no_prefix_cache;
  options.cache_dir = cache_dir;
  options.cache_dir_bytes = bytes_option("--cache-dir-size", cache_dir_size);
  if (!cache_memory.empty()) options.cache_memory = bytes_option("--cache-memory", cache_memory);
  return options;
}

serve::ServiceOptions ServeOptions::service() const {
  if (addresses().empty() && unix_path.empty())
    throw base::Error(ErrorKind::bad_input, "--host",
                      "is empty, and no --listen unix:PATH is given: nothing to listen on");
  serve::ServiceOptions options;
  options.http.hosts = addresses();
  options.http.port = static_cast<uint16_t>(port);
  if (!unix_path.empty()) options.http.unix_path = unix_path.substr(5);
  options.http.limits.connections = static_cast<size_t>(connections);
  options.http.limits.write_time = std::chrono::milliseconds(static_cast<int64_t>(write_timeout * 1e3));
  options.guard.keys = keys;
  options.guard.hosts = hosts;
  for (const std::string& address : options.http.hosts) options.guard.hosts.push_back(address);
  options.guard.origins = origins;
  options.metric_names = metrics == "vllm"       ? serve::MetricNames::vllm
                         : metrics == "llamacpp" ? serve::MetricNames::llamacpp
                                                 : serve::MetricNames::coterie;
  options.log_prompts = log_prompts;
  options.metrics = !no_metrics, options.slots = !no_slots;
  options.lenient = lenient;
  options.wording = with_server_options;
  return options;
}

}  // namespace coterie::cli
