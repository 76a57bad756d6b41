#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>

#include "base/json.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/number_checks.h"
#include "cli/options.h"
#include "cli/print_formats.h"
#include "cli/print_model.h"
#include "cli/print_numbers.h"
#include "cli/print_ranks.h"
#include "cli/print_stream.h"
#include "cli/sizes.h"
#include "cli/terminal.h"
#include "runtime/inspection.h"
#include "runtime/machine.h"

namespace coterie::cli {

namespace {

using models::kPlaces;
using models::Place;
using runtime::Inspection;
using runtime::MachineLimits;

constexpr int64_t kDrafted = 8;      // as --draft-tokens says by itself
constexpr double kAcceptance = 0.8;  // of drafted tokens, as heads for multi-token prediction reach mostly

struct InspectOptions {
  ModelOptions model;
  std::string dtype, memory, disk;
  bool json = false, remeasure = false;
  int64_t drafted = 0;
  double acceptance = kAcceptance;
  int ranks = 0;
  std::string net = "10g";
};

std::string title(Place place, const Inspection& model) {
  std::string text(models::name(place));
  std::replace(text.begin(), text.end(), '_', ' ');
  if (place == Place::experts) return "experts (routed)";
  if (place == Place::shared_experts) return "experts (shared)";
  if (place == Place::mixer && model.account.state_bytes > 0)
    return model.account.cache_bytes_per_token > 0 ? "attention and SSM" : "state space (SSM)";
  if (place == Place::mixer) return "attention";
  if (place == Place::dense_ffn) return "dense FFN";
  return text;
}

base::Json places(const std::array<int64_t, kPlaces>& counts) {
  base::Json json = base::Json::object();
  for (int i = 0; i < kPlaces; ++i) json[models::name(static_cast<Place>(i))] = counts[static_cast<size_t>(i)];
  return json;
}

int64_t sum(const std::array<int64_t, kPlaces>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// Only when memory is what bounds it: reading the weights is the least a token costs.
double decode_speed(const Inspection& model, const MachineLimits& machine) {
  return machine.read_bytes_per_second / static_cast<double>(model.bytes_per_token());
}

base::Json speculation_as_json(const Inspection& model) {
  base::Json list = base::Json::array();
  for (const int64_t drafted : {1, 2, 4, 8})
    list.push_back({{"drafted", drafted},
                    {"bytes_per_step", model.bytes_per_step(drafted)},
                    {"draft_states", drafted * model.account.state_bytes},
                    {"acceptance", kAcceptance},
                    {"gain", model.speculation_gain(drafted, kAcceptance)}});
  return list;
}

// What steps of several rows cost here, where --draft-tokens asks for it.
std::optional<runtime::RowCosts> costs_of(const InspectOptions& options, const Inspection& model, int threads) {
  if (options.drafted == 0) return {};
  return runtime::row_costs(threads, runtime::dense_shape(model.spec, model.account, model.format, model.output_format),
                            options.drafted + 1, options.remeasure);
}

base::Json expected_as_json(const InspectOptions& options, const Inspection& model, const runtime::RowCosts& costs) {
  base::Json list = base::Json::array();
  for (int64_t drafted = 1; drafted <= options.drafted; ++drafted)
    list.push_back({{"drafted", drafted},
                    {"step_cost", model.step_cost(drafted, costs)},
                    {"acceptance", options.acceptance},
                    {"gain", model.speculation_gain(drafted, options.acceptance, costs)}});
  return list;
}

std::string expected_words(const InspectOptions& options, const Inspection& model, const runtime::RowCosts& costs) {
  std::string text =
      styled(fmt::format("--speculate, by steps of several rows of layers of its width in {} on this machine\n",
                         tensor::name(model.format)),
             Style::bold);
  for (int64_t drafted = 1; drafted <= options.drafted; ++drafted)
    text += fmt::format("  {:<36}a step costs {:.2f} ×, gain {:.2f} × where {} are accepted\n",
                        fmt::format("{} drafted", drafted), model.step_cost(drafted, costs),
                        model.speculation_gain(drafted, options.acceptance, costs), options.acceptance);
  return text + "  what making the drafts costs comes on top: nothing for ngram\n";
}

base::Json as_json(const Inspection& model, const MachineLimits& machine) {
  base::Json layers = base::Json::array();
  for (size_t i = 0; i < model.account.layers.size(); ++i) {
    const auto& layer = model.account.layers[i];
    layers.push_back({{"layer", i},
                      {"parameters", sum(layer.held)},
                      {"active_parameters", sum(layer.active)},
                      {"places", places(layer.held)},
                      {"places_active", places(layer.active)}});
  }
  std::vector<std::string> words = describe(model.spec);
  return {{"name", model.name},
          {"family", model.spec.family.shown()},
          {"description", words},
          {"total_parameters", model.account.total()},
          {"active_parameters", model.account.total_active()},
          {"places", places(model.account.held)},
          {"places_active", places(model.account.active)},
          {"bytes", model.weight_bytes()},
          {"bytes_by_place", places(model.bytes_held)},
          {"file_bytes", model.file_bytes},
          {"dtype", model.dtype ? base::Json(tensor::name(*model.dtype)) : base::Json(nullptr)},
          {"layers", layers},
          {"cache_bytes_per_token", model.account.cache_bytes_per_token},
          {"state_bytes", model.account.state_bytes},
          {"context", model.context},
          {"model_context", model.spec.context},
          {"memory",
           {{"weights", model.memory.weights},
            {"cache", model.memory.cache},
            {"scratch", model.memory.scratch},
            {"process", model.memory.process}}},
          {"expected_resident_bytes", model.memory.resident()},
          {"bytes_per_token", model.bytes_per_token()},
          {"speculation", speculation_as_json(model)},
          {"read_bytes_per_second", machine.read_bytes_per_second},
          {"expected_decode_tokens_per_second", decode_speed(model, machine)}};
}

std::string places_table(const Inspection& model) {
  const int64_t total = model.account.total(), active = model.account.total_active();
  std::string text =
      styled(fmt::format("{:<20}{:>20}{:>9}{:>22}{:>9}\n", "where they live", "held", "", "active per token", ""),
             Style::bold);
  for (int i = 0; i < kPlaces; ++i) {
    const auto place = static_cast<size_t>(i);
    const int64_t held = model.account.held[place], used = model.account.active[place];
    if (held == 0) continue;
    text += fmt::format("{:<20}{:>20}{:>9}{:>22}{:>9}\n", title(static_cast<Place>(i), model), grouped(held),
                        percent(static_cast<double>(held) / static_cast<double>(total)), grouped(used),
                        percent(static_cast<double>(used) / static_cast<double>(active)));
  }
  text += styled(fmt::format("{:<20}{:>20}{:>9}{:>22}{:>9}\n", "all", grouped(total), abbreviated(total),
                             grouped(active), abbreviated(active)),
                 Style::bold);
  return text;
}

std::string layers_table(const Inspection& model) {
  const auto& layers = model.account.layers;
  struct Row {
    std::string layers, held, active, places;
  };
  std::vector<Row> rows = {{"per layer", "held", "active", "held by place"}};
  std::vector<bool> told(layers.size(), false);
  for (size_t i = 0; i < layers.size(); ++i) {
    if (told[i]) continue;
    std::vector<int64_t> alike;
    for (size_t j = i; j < layers.size(); ++j)
      if (layers[j].held == layers[i].held && layers[j].active == layers[i].active)
        alike.push_back(static_cast<int64_t>(j)), told[j] = true;
    std::string where;
    for (int p = 0; p < kPlaces; ++p)
      if (const int64_t held = layers[i].held[static_cast<size_t>(p)]; held > 0)
        where += fmt::format("{}{} {}", where.empty() ? "" : ", ", title(static_cast<Place>(p), model), grouped(held));
    rows.push_back({ranges(alike), grouped(sum(layers[i].held)), grouped(sum(layers[i].active)), where});
  }
  // Lists of layers that alternate are long.
  size_t width = 12;
  for (const Row& row : rows) width = std::max(width, row.layers.size());
  std::string text;
  for (const Row& row : rows) {
    const std::string line =
        fmt::format("{:<{}}{:>16}{:>16}   {}\n", row.layers, width + 2, row.held, row.active, row.places);
    text += text.empty() ? styled(line, Style::bold) : line;
  }
  return text;
}

std::string memory_words(const Inspection& model, const MachineLimits& machine) {
  using base::human_bytes;
  const auto& memory = model.memory;
  std::string text = styled("bytes\n", Style::bold);
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("  {:<36}{}\n", what, value);
  };
  if (model.has_weights) line("on disk", human_bytes(model.file_bytes));
  line(model.dtype ? fmt::format("weights in {}", tensor::name(*model.dtype)) : "weights, as they are mapped",
       fmt::format("{} ({:.2f} bits a parameter)", human_bytes(model.weight_bytes()),
                   8.0 * static_cast<double>(model.weight_bytes()) / static_cast<double>(model.account.total())));
  if (model.account.cache_bytes_per_token > 0)
    line("cache, each token of context (f16)",
         fmt::format("{} ({} at the full {})", human_bytes(model.account.cache_bytes_per_token),
                     human_bytes(model.account.cache_bytes_per_token * model.spec.context),
                     grouped(model.spec.context)));
  if (model.account.state_bytes > 0)
    line("recurrent state, any length (f32)",
         fmt::format("{}, and as much for each snapshot that is kept", human_bytes(model.account.state_bytes)));
  line(fmt::format("expected resident at context {}", model.context),
       fmt::format("{}: weights {}, cache {}, scratch {}, process {}", human_bytes(memory.resident()),
                   human_bytes(memory.weights), human_bytes(memory.cache), human_bytes(memory.scratch),
                   human_bytes(memory.process)));
  text += styled("speed\n", Style::bold);
  line("read for each token",
       fmt::format("{}, {} included", human_bytes(model.bytes_per_token()),
                   model.account.state_bytes == 0             ? "cache of half that context"
                   : model.account.cache_bytes_per_token == 0 ? "the state"
                                                              : "the state and the cache of half that context"));
  line("this machine reads", fmt::format("{:.1f} GB/s{}", machine.read_bytes_per_second / 1e9,
                                         machine.remembered ? " (measured earlier; --remeasure)" : " (just measured)"));
  line("so it decodes at most", fmt::format("{:.1f} tokens a second", decode_speed(model, machine)));
  std::string gains;
  for (const int64_t drafted : {1, 2, 4})
    gains += fmt::format("{}{} drafted: {:.2f} ×", gains.empty() ? "" : ", ", drafted,
                         model.speculation_gain(drafted, kAcceptance));
  line(fmt::format("--speculate, {} accepted, at most", kAcceptance), gains);
  if (model.account.state_bytes > 0)
    line("--speculate, copies of the state", fmt::format("{} for each sequence that drafts {} tokens",
                                                         human_bytes(kDrafted * model.account.state_bytes), kDrafted));
  if (memory.resident() > base::total_memory())
    text +=
        fmt::format("  {}\n", styled(fmt::format("larger than this machine's {}: weights will be read from the disk "
                                                 "again and again, far below that speed",
                                                 human_bytes(base::total_memory())),
                                     Style::red));
  return text;
}

int inspect_command(const InspectOptions& options) {
  runtime::InspectionOptions wanted;
  wanted.open = options.model.open_options();
  wanted.context = options.model.context;
  if (!options.dtype.empty()) wanted.dtype = weight_format("--dtype", options.dtype, Formats::read);
  threads::Pool pool(options.model.threads);
  wanted.threads = pool.threads();
  if (!options.memory.empty()) wanted.memory = bytes_option("--memory", options.memory);
  const Inspection model = runtime::inspect(options.model.model, wanted);
  for (const std::string& warning : model.warnings) print_warning(warning);
  const MachineLimits machine = runtime::machine_limits(pool, kernels::select(), options.remeasure);
  std::optional<runtime::StreamForecast> stream;
  const double disk = options.disk.empty() ? kAssumedDisk : rate_option("--disk", options.disk);
  if (wanted.memory > 0) stream = runtime::forecast_stream(model, wanted.memory, disk, machine.read_bytes_per_second);
  std::optional<runtime::RanksPlan> ranks;
  std::optional<Splits> splits;
  if (options.ranks > 0) {
    const runtime::Network network = runtime::network_by_name(options.net);
    ranks = plan_of(model, machine, options.ranks, network);
    splits = splits_of(model, machine, options.ranks, network);
  }
  const std::optional<runtime::RowCosts> costs = costs_of(options, model, pool.threads());
  if (options.json) {
    base::Json json = as_json(model, machine);
    if (costs) json["expected_speculation"] = expected_as_json(options, model, *costs);
    if (stream) json["larger_than_memory"] = stream_json(*stream, disk);
    if (ranks) json["ranks"] = ranks_json(*ranks, *splits, options.net);
    print(json.dump(2, ' ', false, base::Json::error_handler_t::replace) + "\n");
    return 0;
  }
  std::string text = styled(model.name, Style::bold) + "\n";
  for (const std::string& line : describe(model.spec)) text += "  " + line + "\n";
  text += "\n" + places_table(model) + "\n" + layers_table(model) + "\n" + memory_words(model, machine);
  if (stream) text += stream_words(*stream, disk, options.disk.empty());
  if (costs) text += expected_words(options, model, *costs);
  if (ranks) text += ranks_words(*ranks, *splits, options.net);
  print(text);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "Show what a model is, where its parameters live, what it needs");
  options->model.add_model_as(*command, "A folder, a .gguf file, or a config.json alone (weights are not read)");
  command->add_flag("--json", options->json, "Print JSON");
  command->add_option("--dtype", options->dtype, "Count bytes as if the matrices were stored in T (q4_k, bf16, ...)")
      ->type_name("T");
  command
      ->add_option("-c,--context,--ctx-size", options->model.context,
                   "Tokens of cache in the expected memory (default: 512)")
      ->type_name("N")
      ->check(at_least(1));
  CLI::Option* memory = command->add_option("--memory", options->memory,
                                            "How it would run in so much memory, its experts read from a disk (8G)");
  memory->type_name("SIZE")->check(size_problem);
  command
      ->add_option("--disk", options->disk,
                   "Bytes a second of that disk, as coterie bench --disk measures (default: 1G)")
      ->type_name("RATE")
      ->check(rate_problem)
      ->needs(memory);
  CLI::Option* const drafted =
      command
          ->add_option("--draft-tokens", options->drafted,
                       "Measure what steps that verify drafts of 1 to N tokens (--speculate) cost on this machine, and "
                       "tell what the model would gain")
          ->type_name("N")
          ->check(between(1, 64));
  command
      ->add_option("--acceptance", options->acceptance,
                   "With --draft-tokens: how often a drafted token is accepted, 0 to 1")
      ->type_name("A")
      ->capture_default_str()
      ->check(number_between(0, 1))
      ->needs(drafted);
  add_threads(*command, options->model.threads);
  command->add_flag("--remeasure", options->remeasure,
                    "Measure the machine again instead of using the remembered figures");
  CLI::Option* ranks =
      command
          ->add_option("--ranks", options->ranks, "Also what N processes or machines would need and send (mpirun -n N)")
          ->type_name("N")
          ->check(between(1, 4096));
  command
      ->add_option("--net", options->net,
                   "With --ranks: what joins them: local, rdma, 100g, 25g, 10g, 1g, or LATENCY,RATE")
      ->type_name("NET")
      ->capture_default_str()
      ->needs(ranks);
  options->model.add_routing(*command);
  command->footer(
      "Examples:\n"
      "  coterie inspect ./Mixtral-8x7B\n"
      "  coterie inspect config.json --dtype q4_k --context 4096\n"
      "  coterie inspect config.json --dtype q4_k --memory 8G --disk 1.1G\n"
      "  coterie inspect model.gguf --draft-tokens 4 --acceptance 0.7\n"
      "  coterie inspect model.gguf --ranks 4 --net 40us,1.15GB/s\n"
      "  coterie inspect model.gguf --json | jq .places");
  command->callback([=, &action] { action = [options] { return inspect_command(*options); }; });
}

}  // namespace coterie::cli
