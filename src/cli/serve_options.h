#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "cli/options.h"
#include "cli/speculate_options.h"
#include "serve/api/service.h"

namespace coterie::cli {

/// Options of coterie serve.
struct ServeOptions {
  ServeOptions();

  /// A model or an adapter by name, as --model NAME=PATH and --adapters NAME=DIR[:SCALE] give it.
  struct Named {
    std::string name, path;
  };
  std::vector<Named> named_models;

  ModelOptions model;               // the one without a name; `model.model` is empty where all have names
  std::vector<std::string> models;  // as they were given
  SpeculateOptions speculate;
  SamplingOptions sampling;  // what a request that does not say otherwise gets
  std::string host = "127.0.0.1", unix_path, key_file, chat_template, metrics = "coterie";
  std::string cache_memory, cache_dir, cache_dir_size = "32G", models_memory, template_variables = "{}",
                                       pooling = "mean";
  std::vector<std::string> adapters;
  double unload_after = 300;
  int64_t port = 8080;
  std::vector<std::string> aliases, keys, hosts, origins;
  int64_t parallel = 16, max_queue = 64, connections = 1024;
  double stall_milliseconds = 500, max_wait = 0, write_timeout = 30;
  bool lenient = false, no_prefix_cache = false, log_prompts = false, quiet = false;
  bool no_metrics = false, no_slots = false;

  void add(CLI::App& app);
  /// Adds the keys of --api-key-file. Throws bad_input for a file without any.
  void read_keys();
  /// Takes `models` apart: the one without a name goes to `model`, the others to `named_models`. Once, when the options
  /// have been read: ranks other than 0 open `model`, too. Throws bad_input for two without a name.
  void read_models();
  std::vector<Named> read_adapters() const;
  /// Those that --host names, separated by commas.
  std::vector<std::string> addresses() const;
  serve::SchedulerOptions scheduler() const;
  serve::ServiceOptions service() const;

 private:
  void add_models(CLI::App& app);
  void add_network(CLI::App& app);
  void add_limits(CLI::App& app);
};

}  // namespace coterie::cli
