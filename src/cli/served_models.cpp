#include "cli/served_models.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <utility>

#include "base/error.h"
#include "base/fnv.h"
#include "base/memory.h"
#include "cli/ranks.h"
#include "cli/sizes.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "families/ensemble/ensemble_decoder.h"
#include "families/ensemble/ensemble_model.h"
#include "models/account.h"
#include "runtime/machine.h"
#include "runtime/version.h"
#include "runtime/weight_bytes.h"
#include "serve/page_fingerprint.h"
#include "serve/routes.h"
#include "tensor/dtype.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;
namespace fs = std::filesystem;

std::string name_of(const fs::path& path) {
  std::string name = path.extension() == ".gguf" ? path.stem().string() : path.filename().string();
  return name.empty() ? path.parent_path().filename().string() : name;
}

// The bytes of a model that is not open: the files that lie in its folder, or the parts of a split file.
int64_t bytes_on_disk(const fs::path& path) {
  if (families::is_ensemble(path)) {
    int64_t sum = 0;
    for (const fs::path& model : families::read_gate(path).models)
      sum += bytes_on_disk(model.is_absolute() ? model : path / model);
    return sum;
  }
  const bool folder = fs::is_directory(path);
  const std::string file = path.filename().string();
  const size_t part = file.find("-00001-of-");
  if (!folder && part == std::string::npos) return static_cast<int64_t>(fs::file_size(path));
  int64_t sum = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder ? path : path.parent_path())) {
    const std::string name = entry.path().filename().string();
    const bool belongs = folder ? name.ends_with(".safetensors") || name.ends_with(".gguf")
                                : name.starts_with(file.substr(0, part + 1)) && name.ends_with(".gguf");
    if (belongs && entry.is_regular_file()) sum += static_cast<int64_t>(entry.file_size());
  }
  return sum;
}

// What tells a file from what it becomes when it is written again: its size, its time and how it begins.
std::string identity_of(const fs::path& path) {
  if (!fs::exists(path)) return "none";
  std::vector<fs::path> files;
  if (fs::is_directory(path)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(path))
      if (entry.is_regular_file()) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
  } else {
    files.push_back(path);
  }
  std::string text;
  for (const fs::path& file : files) {
    std::string begin(1 << 16, '\0');
    std::ifstream stream(file, std::ios::binary);
    stream.read(begin.data(), static_cast<std::streamsize>(begin.size()));
    uint64_t hash = base::kFnvBegin;
    for (std::streamsize i = 0; i < stream.gcount(); ++i)
      hash = base::fnv_step(hash, static_cast<unsigned char>(begin[static_cast<size_t>(i)]));
    text += fmt::format("{} {} {} {:016x};", file.filename().string(), fs::file_size(file),
                        fs::last_write_time(file).time_since_epoch().count(), hash);
  }
  return text;
}

std::string files_of(const fs::path& path) {
  std::string text = identity_of(path);
  if (families::is_ensemble(path))
    for (const fs::path& model : families::read_gate(path).models)
      text += identity_of(model.is_absolute() ? model : path / model);
  return text;
}

std::string adapter_of(const ModelOptions& options) {
  if (options.adapter.empty()) return {};
  const auto [folder, factor] = read_adapter_option(options.adapter);
  return fmt::format("{} {}", factor, identity_of(folder));
}

// The context is in it too, since the factor of a scaling may follow from it.
std::string rope_of(const ModelOptions& options) {
  const models::RopeOptions rope = options.rope.options(options.context);
  if (!rope.any()) return {};
  const auto number = [](const auto& value) { return value ? fmt::format("{}", *value) : std::string("-"); };
  return fmt::format("{} {} {} {} {} {} {} {} {} {}", rope.scaling ? static_cast<int>(*rope.scaling) : -1,
                     number(rope.factor), number(rope.original_context), number(rope.base),
                     number(rope.low_freq_factor), number(rope.high_freq_factor), number(rope.beta_fast),
                     number(rope.beta_slow), number(rope.attention_factor), rope.context);
}

families::Model open_any(const ModelOptions& options) {
  if (on_ranks()) return open_for_engine(options);
  if (!families::is_ensemble(options.model)) return families::open_model(options.model, options.open_options());
  const families::Gate gate = families::read_gate(options.model);
  if (gate.kind == families::Gate::Kind::prompt)
    throw base::Error(ErrorKind::unsupported, options.model,
                      "its gate reads a whole prompt before a model is chosen, which the server does not do",
                      "a gate by token, or a uniform one, can be served; the models can be, by names");
  families::Model model = families::open_ensemble(gate, options.model, options.open_options()).model;
  model.path.path = options.model;
  return model;
}

/// One model with all that answers its requests.
struct Running {
  Running(families::Model model, const runtime::EngineOptions& engine_options, const ModelOptions& opened,
          const SpeculateOptions& speculate, serve::SchedulerOptions scheduler_options)
      : engine(std::move(model), engine_options),
        speculation(speculate.open(engine, opened)),
        weights(runtime::weight_bytes(*engine.model().decoder)),
        served(engine.tokenizer()),
        scheduler(engine, with_drafts(with_fingerprint(std::move(scheduler_options), engine, opened))),
        backend(scheduler) {}
  static serve::SchedulerOptions with_fingerprint(serve::SchedulerOptions options, const runtime::Engine& engine,
                                                  const ModelOptions& opened) {
    const runtime::CacheShape& shape = engine.cache();
    const serve::RouteLayout routes(engine.spec());
    options.fingerprint =
        serve::page_fingerprint({.files = files_of(opened.model),
                                 .adapter = adapter_of(opened),
                                 .router = opened.router,
                                 .experts_per_token = opened.experts_per_token.value_or(0),
                                 .rope = rope_of(opened),
                                 .cache_type = std::string(tensor::name(shape.dtype)),
                                 .precision = opened.precision,
                                 .kernels = std::string(engine.isa()),
                                 .version = std::string(runtime::version()),
                                 .page_bytes = shape.page_bytes(),
                                 .route_values = options.keep_routes ? ops::kCacheBlock * routes.position() : 0,
                                 .state_floats = shape.state.floats()});
    return options;
  }
  serve::SchedulerOptions with_drafts(serve::SchedulerOptions options) const {
    if (speculation) options.speculator = [this] { return speculation->speculator(); };
    return options;
  }
  runtime::Engine engine;
  std::unique_ptr<runtime::Speculation> speculation;
  const runtime::WeightBytes weights;  // before the scheduler, whose thread moves them as soon as it runs
  serve::ServedModel served;
  serve::Scheduler scheduler;
  serve::SchedulerBackend backend;
};

int64_t parameters_of(const families::Model& model) {
  const auto* ensemble = dynamic_cast<const families::EnsembleDecoder*>(model.decoder.get());
  if (!ensemble) return models::account(model.decoder->spec()).total();
  int64_t sum = 0;
  for (const families::Model& each : ensemble->models()) sum += parameters_of(each);
  return sum;
}

// What the page says about the cost of routing.
void add_routing(const runtime::Engine& engine, const runtime::WeightBytes& bytes, serve::ServedModel& served) {
  const models::ModelSpec& spec = engine.spec();
  served.spec = spec;
  served.gated = runtime::ensemble_parts(engine);
  if (const auto* ensemble = dynamic_cast<const families::EnsembleDecoder*>(engine.model().decoder.get()))
    served.gate = name(ensemble->gate().kind);
  constexpr auto kExperts = static_cast<size_t>(models::Place::experts);
  served.dense_bytes = bytes.all_touched() - bytes.touched[kExperts];
  // Of all experts' bytes a layer has the share that it has of their parameters.
  const models::Account account = models::account(spec);
  if (account.held[kExperts] == 0) return;
  const double each = static_cast<double>(bytes.held[kExperts]) / static_cast<double>(account.held[kExperts]);
  for (size_t at = 0; at < served.routed_layers.size(); ++at) {
    const auto layer = static_cast<size_t>(served.routed_layers[at]);
    const int64_t held = account.layers[layer].held[kExperts];
    const auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[layer].ffn);
    if (!moe) return;
    served.expert_bytes.push_back(
        static_cast<int64_t>(each * static_cast<double>(held) / static_cast<double>(moe->experts_with_weights())));
  }
}

void describe(const ServeOptions& options, const ModelOptions& opened, Running& running) {
  const runtime::Engine& engine = running.engine;
  serve::ServedModel& served = running.served;
  const families::Model& model = engine.model();
  const models::ModelSpec& spec = engine.spec();
  served.chat_template = model.chat_template;
  served.path = model.path.path.string();
  served.created = std::time(nullptr);
  if (!options.chat_template.empty()) {
    const auto special = [&](std::optional<text::TokenId> id) {
      return id ? served.tokenizer.token(*id).value_or("") : std::string();
    };
    const auto ends = served.tokenizer.end_tokens();
    served.chat_template.emplace(file_contents(options.chat_template), special(served.tokenizer.bos()),
                                 ends.empty() ? "" : special(ends.front()), options.chat_template);
  }
  served.context = engine.context_size();
  served.vocabulary = spec.vocabulary;
  served.width = spec.width;
  served.layers = std::ssize(spec.blocks);
  served.parameters = parameters_of(model);
  served.file_bytes = model.source ? model.source->file_bytes() : bytes_on_disk(opened.model);
  const serve::RouteLayout routes(spec);
  for (int64_t layer = 0; layer < served.layers; ++layer)
    if (routes.layer[static_cast<size_t>(layer)] >= 0) served.routed_layers.push_back(layer);
  for (const int64_t experts : routes.experts) served.experts = std::max(served.experts, experts);
  add_routing(engine, running.weights, served);
  if (const auto limits = runtime::known_limits(running.engine.context().pool, running.engine.context().kernels))
    served.read_bytes_per_second = limits->read_bytes_per_second;
  served.fingerprint =
      serve::short_fingerprint(std::string(runtime::version()), running.scheduler.options().fingerprint);
  SamplingOptions sampling = options.sampling;
  sampling.adopt(model);
  served.sampler = sampling.generation_options().sampler;
  served.seed = options.sampling.seed;
  served.max_tokens = options.sampling.tokens;
  served.ignore_end = options.sampling.ignore_end;
  served.template_variables = options.template_variables;
  served.keeps_states = engine.cache().state.floats() > 0;
  served.pooling = options.pooling == "last" ? serve::Request::Pooling::last : serve::Request::Pooling::mean;
  served.lenient = options.lenient;
}

/// `part`: of a memory that several models share; 0: none is shared.
std::shared_ptr<const serve::ReadyModel> load(const ServeOptions& options, ModelOptions wanted, const std::string& name,
                                              const std::vector<std::string>& aliases, int64_t part) {
  options.speculate.check(wanted, false);
  families::Model model = open_any(wanted);
  warn_about(model);
  serve::SchedulerOptions scheduler_options = options.scheduler();
  // Each rank knows the experts of its own rows alone, and a prompt that is looked at is not divided.
  if (on_ranks() && split_of_ranks() == runtime::Split::experts) scheduler_options.keep_routes = false;
  runtime::EngineOptions of_options = wanted.engine_options();
  if (part > 0) of_options.memory = part, of_options.one_of_several = true;
  const runtime::EngineOptions engine_options =
      serve::engine_options(model.decoder->spec(), std::move(of_options), scheduler_options);
  const auto running =
      std::make_shared<Running>(std::move(model), engine_options, wanted, options.speculate, scheduler_options);
  describe(options, wanted, *running);
  running->served.name = name, running->served.aliases = aliases;
  const runtime::StateShape& state = running->engine.cache().state;
  if (running->speculation && state.floats() > 0)
    print_note(
        fmt::format("{}: of the cache budget, each sequence takes {} for copies of recurrent states while it drafts",
                    name, base::human_bytes(state.drafted * state.bytes())));
  auto ready = std::make_shared<serve::ReadyModel>();
  ready->served = std::shared_ptr<const serve::ServedModel>(running, &running->served);
  ready->backend = std::shared_ptr<serve::Backend>(running, &running->backend);
  return ready;
}

// What is loaded later is looked at now: a wrong path should not wait for the first who asks.
void expect_model(const std::string& path) {
  if (!families::is_ensemble(path)) checkpoint::resolve_model(path);
}

// Of a memory that several models share: parts that together never exceed it, so that none has to go for another. Small
// models get what they need, the others as much each; where that is less than a model needs, its experts are read from
// the disk.
std::vector<int64_t> parts_of(const std::vector<serve::ModelOnDemand>& models, int64_t memory, int64_t cache) {
  std::vector<std::pair<int64_t, size_t>> needs;
  for (size_t i = 0; i < models.size(); ++i) {
    const int64_t bytes = bytes_on_disk(models[i].path) + cache;
    const int64_t need = bytes + bytes / 8 + (int64_t{64} << 20);  // with scratch and tokenizer
    needs.emplace_back(cache > 0 ? need : need / 3 * 4, i);        // a cache that nobody asked for takes a quarter
  }
  std::sort(needs.begin(), needs.end());
  std::vector<int64_t> parts(models.size());
  int64_t left = memory;
  for (size_t i = 0; i < needs.size(); ++i) {
    const int64_t part = std::min(needs[i].first, left / static_cast<int64_t>(needs.size() - i));
    parts[needs[i].second] = part, left -= part;
  }
  for (int64_t& part : parts) part += left / static_cast<int64_t>(parts.size());
  return parts;
}

// One that never fits would be refused whenever it is asked for.
void refuse_too_large(const std::vector<serve::ModelOnDemand>& models, int64_t memory) {
  for (const serve::ModelOnDemand& model : models)
    if (const int64_t bytes = model.bytes(); bytes > memory)
      throw base::Error(ErrorKind::bad_input, "--models-memory",
                        fmt::format("is {}, and {} alone needs {} with its cache", base::human_bytes(memory),
                                    model.name, base::human_bytes(bytes)),
                        "give more, or a smaller --cache-memory");
}

}  // namespace

std::unique_ptr<serve::ModelShelf> served_models(ServeOptions& options) {
  const std::vector<ServeOptions::Named> adapters = options.read_adapters();
  std::vector<serve::ModelOnDemand> models;
  const auto parts = std::make_shared<std::vector<int64_t>>();  // of a memory that the models share; 0: there is none
  const auto add = [&](const ModelOptions& wanted, std::string name, std::vector<std::string> aliases, bool stays) {
    serve::ModelOnDemand model{.name = std::move(name), .aliases = std::move(aliases), .path = wanted.model};
    model.stays = stays;
    model.bytes = [&options, wanted] {
      int64_t cache = options.scheduler().cache_memory;
      if (cache == 0) cache = base::available_memory() / 4;
      return bytes_on_disk(wanted.model) + cache;
    };
    model.load = [&options, wanted, name = model.name, aliases = model.aliases, parts, at = parts->size()] {
      return load(options, wanted, name, aliases, (*parts)[at]);
    };
    models.push_back(std::move(model));
    parts->push_back(0);
  };
  if (!options.model.model.empty()) {
    expect_model(options.model.model);
    std::vector<std::string> aliases = options.aliases;
    std::string name = name_of(options.model.model);
    if (!aliases.empty()) name = aliases.front(), aliases.erase(aliases.begin());
    add(options.model, std::move(name), std::move(aliases), true);
  } else if (!options.aliases.empty()) {
    throw base::Error(ErrorKind::bad_input, "--alias", "all models have names already", "leave it out");
  }
  for (const auto& [name, path] : options.named_models) {
    expect_model(path);
    ModelOptions wanted = options.model;
    wanted.model = path, wanted.adapter.clear();
    add(wanted, name, {}, false);
  }
  for (const auto& [name, path] : adapters) {
    if (const fs::path folder = read_adapter_option(path).first; !fs::exists(folder / "adapter_config.json"))
      throw base::Error(ErrorKind::not_found, folder.string(),
                        fmt::format("has no adapter_config.json: {} is not an adapter", name),
                        "an adapter is a folder as coterie tune or PEFT writes it");
    ModelOptions wanted = options.model;
    wanted.adapter = path;
    add(wanted, name, {}, false);
  }
  if (on_ranks() && (models.size() > 1 || options.model.model.empty()))
    throw base::Error(ErrorKind::unsupported, "--model", "several models are not served by ranks",
                      "coterie serve MODEL, one for each group of ranks");
  serve::ModelShelfOptions shelf{.unload_after_seconds = options.unload_after};
  if (models.size() > 1 && !options.model.memory.empty()) {
    if (!options.models_memory.empty())
      throw base::Error(ErrorKind::bad_input, "--memory",
                        "was given beside --models-memory, which is for models that are "
                        "in memory as a whole or not at all",
                        "leave one of them out");
    shelf.memory = bytes_option("--memory", options.model.memory);
    *parts = parts_of(models, shelf.memory, options.scheduler().cache_memory);
    for (size_t i = 0; i < models.size(); ++i) models[i].bytes = [part = (*parts)[i]] { return part; };
    return std::make_unique<serve::ModelShelf>(std::move(models), shelf);
  }
  if (!options.models_memory.empty())
    shelf.memory = bytes_option("--models-memory", options.models_memory);
  else if (models.size() > 1)
    shelf.memory = base::available_memory() / 10 * 9;
  if (!options.models_memory.empty()) refuse_too_large(models, shelf.memory);
  return std::make_unique<serve::ModelShelf>(std::move(models), shelf);
}

}  // namespace coterie::cli
