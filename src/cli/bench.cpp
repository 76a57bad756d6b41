#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/plural.h"
#include "cli/bench_disk.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/number_checks.h"
#include "cli/options.h"
#include "cli/print_formats.h"
#include "cli/print_numbers.h"
#include "cli/print_stream.h"
#include "cli/ranks.h"
#include "cli/terminal.h"
#include "lens/choices.h"
#include "lens/fitted_routes.h"
#include "runtime/bench.h"
#include "runtime/memory_plan.h"
#include "runtime/repacked_weights.h"
#include "runtime/shape_model.h"
#include "runtime/version.h"
#include "threads/topology.h"

namespace coterie::cli {

namespace {

struct BenchCommand {
  ModelOptions model;
  runtime::BenchOptions bench;
  runtime::ShapeOptions shape;
  std::string quant = "q4_k", write, routes, disk;
  int64_t step_tokens = 512;
  double seconds = 15;  // of the disk
  bool json = false, force = false;
  CLI::Option *prompt = nullptr, *generate = nullptr;

  /// Lengths that nobody asked for are what the context has room for.
  void fit(int64_t context) {
    const int64_t room = std::max<int64_t>(context - bench.depth - bench.drafted, 1);
    if (prompt->count() == 0) bench.prompt = std::min(bench.prompt, room);
    if (generate->count() == 0) bench.generate = std::min(bench.generate, room);
  }
};

families::Model model_of(BenchCommand& command, Progress& progress) {
  if (command.shape.shape.empty()) return open_for_engine(command.model);
  if (on_ranks())
    throw base::Error(base::ErrorKind::unsupported, "--shape", "makes a model in one process, and this run has ranks",
                      "write it to a file (--write) and measure that");
  if (!command.write.empty()) refuse_existing_output(command.write, command.force);
  command.shape.quant = weight_format("--quant", command.quant, Formats::read);
  if (command.write.empty()) {
    progress.show(fmt::format("making random weights of {}", command.shape.shape));
    families::Model model = runtime::shape_model(command.shape, command.model.open_options());
    progress.clear();
    return model;
  }
  runtime::write_shape_model(command.shape, command.model.open_options(), command.write,
                             [&](int64_t written, int64_t all) {
                               progress.show(fmt::format("writing random weights to {}: {} of {}", command.write,
                                                         base::human_bytes(written), base::human_bytes(all)));
                             });
  progress.clear();
  command.model.model = command.write;
  families::Model model = open_for_engine(command.model);
  for (const std::string& note : runtime::notes_of_written(model)) print_warning(note);
  return model;
}

/// FILE, or fitted:NAME: as many tokens as all rounds meet, up to kMostDrawn, behind which they begin again.
lens::Routes routes_of(const BenchCommand& command, const runtime::Engine& engine) {
  constexpr std::string_view kDrawn = "fitted:";
  constexpr int64_t kMostDrawn = 8192;
  if (!command.routes.starts_with(kDrawn)) return lens::read_routes(command.routes);
  const lens::FittedRouting& fitted = lens::fitted_routing(command.routes.substr(kDrawn.size()));
  const lens::RouterShape routers = lens::router_shape(engine.spec());
  const runtime::BenchOptions& bench = command.bench;
  const int64_t round = bench.prompt + bench.generate;
  const int64_t sequence = std::min((bench.repeat + 1) * round + 2 * bench.depth, kMostDrawn);
  return lens::fitted_routes(fitted, routers.count(), routers.experts.front(), routers.choices,
                             std::max<int64_t>(std::min(bench.batch * sequence, kMostDrawn), 1), bench.seed);
}

std::string_view name(runtime::Engine::Products products) {
  switch (products) {
    case runtime::Engine::Products::tiles: return "tiles";
    case runtime::Engine::Products::int8: return "int8";
    default: return "f32";
  }
}

/// Processes that ran or wanted to, over the last minute: who measures wants none but this one.
std::optional<double> load_average() {
  double one = 0;
  if (::getloadavg(&one, 1) != 1) return std::nullopt;
  return one;
}

std::string spread(const runtime::BenchOptions& bench, const runtime::Spread& rounds) {
  return bench.repeat == 1 ? "" : fmt::format("   ({:.2f} to {:.2f})", rounds.least, rounds.most);
}

base::Json speculated_as_json(const runtime::BenchResult& result, double acceptance) {
  base::Json list = base::Json::array();
  for (const runtime::SpeculatedDecode& each : result.speculated)
    list.push_back({{"drafted", each.drafted},
                    {"step_seconds", each.step_seconds},
                    {"step_cost", each.step_seconds / result.plain_step_seconds},
                    {"tokens_per_second", each.tokens_per_second},
                    {"gain", each.gain(acceptance, result.plain_step_seconds)}});
  return list;
}

base::Json as_json(const BenchCommand& command, runtime::Engine& engine, const runtime::BenchResult& result,
                   const runtime::MachineLimits& machine, int64_t expected_resident,
                   std::optional<double> load_before) {
  return {{"model", engine.model().name},
          {"isa", engine.isa()},
          {"threads", engine.threads()},
          {"version", runtime::version()},
          {"cpu", threads::Topology::read().model},
          {"precision", command.model.precision},
          {"cache_type", tensor::name(engine.cache().dtype)},
          {"context", engine.context_size()},
          {"step_tokens", command.step_tokens},
          {"file_pages", command.model.file_pages},
          {"prompt", command.bench.prompt},
          {"generate", command.bench.generate},
          {"depth", command.bench.depth},
          {"batch", command.bench.batch},
          {"repeat", command.bench.repeat},
          {"routes", command.routes.empty() ? base::Json(nullptr) : base::Json(command.routes)},
          {"recall", command.bench.recall},
          {"experts_from_disk", reads_json(engine.bytes().stream_report())},
          {"load_average", load_before ? base::Json(*load_before) : base::Json(nullptr)},
          {"prefill_seconds", result.prefill_seconds},
          {"decode_seconds", result.decode_seconds},
          {"prefill_tokens_per_second", result.prefill_tokens_per_second},
          {"decode_tokens_per_second", result.decode_tokens_per_second},
          {"prefill_least", result.prefill_spread.least},
          {"prefill_most", result.prefill_spread.most},
          {"decode_least", result.decode_spread.least},
          {"decode_most", result.decode_spread.most},
          {"bytes_per_token", result.bytes_per_token},
          {"draft_tokens", command.bench.drafted},
          {"acceptance", command.bench.acceptance},
          {"speculated", speculated_as_json(result, command.bench.acceptance)},
          {"draft_states", result.draft_states},
          {"weight_bytes_per_step", result.weight_bytes_per_step},
          {"cache_bytes_per_step", result.cache_bytes_per_step},
          {"flops_per_token", result.flops_per_token},
          {"read_bytes_per_second", machine.read_bytes_per_second},
          {"f32_flops_per_second", machine.f32_flops},
          {"int8_ops_per_second", machine.int8_ops},
          {"tile_ops_per_second", machine.tile_ops > 0 ? base::Json(machine.tile_ops) : base::Json(nullptr)},
          {"bandwidth_share", runtime::bandwidth_share(result, machine)},
          {"flops_share", runtime::flops_share(result, machine)},
          {"flops_share_of", name(result.products)},
          {"expected_resident_bytes", expected_resident},
          {"peak_resident_bytes", result.peak_resident_bytes}};
}

std::string as_text(const BenchCommand& command, const runtime::Engine& engine, const runtime::BenchResult& result,
                    const runtime::MachineLimits& machine, int64_t expected_resident,
                    std::optional<double> load_before) {
  using base::human_bytes;
  const runtime::BenchOptions& bench = command.bench;
  std::string text = fmt::format(
      "{}\n  {}, {}, {}{}; read bandwidth {:.1f} GB/s, multiply-add {:.0f} GFLOP/s f32, "
      "{:.0f} GOP/s int8{}\n\n",
      styled(engine.model().name, Style::bold), engine.isa(), base::plural(engine.threads(), "thread"),
      command.model.precision + (command.routes.empty() ? "" : ", routed by " + command.routes),
      load_before ? fmt::format(", load {:.1f} before", *load_before) : "", machine.read_bytes_per_second / 1e9,
      machine.f32_flops / 1e9, machine.int8_ops / 1e9,
      machine.tile_ops > 0 ? fmt::format(", {:.0f} GOP/s int8 by tiles", machine.tile_ops / 1e9) : "");
  const std::string batch = bench.batch == 1 ? "" : fmt::format(", {} sequences, all", bench.batch);
  const std::string depth = bench.depth == 0 ? "" : fmt::format(" after {}", bench.depth);
  if (bench.prompt > 0)
    text += fmt::format("  {:<28}{}{}   {} of the multiply-add rate of {} ({} operations a token)\n",
                        fmt::format("prefill {}{}{}", bench.prompt, depth, batch),
                        styled(fmt::format("{:9.2f} t/s", result.prefill_tokens_per_second), Style::bold),
                        spread(bench, result.prefill_spread), percent(runtime::flops_share(result, machine)),
                        name(result.products), abbreviated(static_cast<int64_t>(result.flops_per_token)));
  if (bench.generate > 0)
    text += fmt::format("  {:<28}{}{}   {} of the read bandwidth ({} a token)\n",
                        fmt::format("decode {}{}{}", bench.generate, depth, batch),
                        styled(fmt::format("{:9.2f} t/s", result.decode_tokens_per_second), Style::bold),
                        spread(bench, result.decode_spread), percent(runtime::bandwidth_share(result, machine)),
                        human_bytes(static_cast<int64_t>(result.bytes_per_token)));
  for (const runtime::SpeculatedDecode& each : result.speculated) {
    std::string gains;
    for (const double acceptance : {0.5, 0.7, 0.8, 0.9})
      gains += fmt::format("{}{:.2f} at {:.1f}", gains.empty() ? "" : ", ",
                           each.gain(acceptance, result.plain_step_seconds), acceptance);
    text += fmt::format("  {:<28}{}   a step costs {:.2f} ×; gain by acceptance {}\n",
                        fmt::format("{} drafted, {:.2f} accepted", each.drafted, bench.acceptance),
                        styled(fmt::format("{:9.2f} t/s", each.tokens_per_second), Style::bold),
                        each.step_seconds / result.plain_step_seconds, gains);
  }
  if (result.draft_states > 0)
    text += fmt::format("  {:<28}{} for {} of {}\n", "copies of recurrent states", human_bytes(result.draft_states),
                        base::plural(bench.drafted, "drafted token"), base::plural(bench.batch, "sequence"));
  text += fmt::format("  {:<28}{} at the peak, {} expected\n", "resident memory",
                      human_bytes(result.peak_resident_bytes), human_bytes(expected_resident));
  return text;
}

int bench_command(BenchCommand& command) {
  const std::optional<double> load = load_average();
  Progress progress;
  families::Model opened = model_of(command, progress);
  warn_about(opened);
  runtime::EngineOptions options = command.model.engine_options();
  options.step_tokens = command.step_tokens;
  options.drafted = command.bench.drafted;
  runtime::Engine engine(std::move(opened), options);
  command.fit(engine.context_size());
  const int64_t longest = command.bench.depth + std::max(command.bench.prompt, command.bench.generate);
  runtime::MemoryForecast forecast =
      runtime::forecast_memory(engine.model(), longest, command.step_tokens, engine.cache().dtype, engine.threads());
  forecast.cache *= command.bench.batch;
  if (const runtime::ExpertStore* const store = engine.bytes().store()) {
    const auto experts = static_cast<size_t>(models::Place::experts);
    forecast.weights += store->slot_memory() - engine.bytes().weights().held[experts];
  } else if (!command.model.file_pages && command.model.precision == "fast") {
    forecast.doubled =
        runtime::RepackedWeights(*engine.model().decoder, *engine.model().source, engine.context().kernels.matmul)
            .doubled_bytes();
  }

  std::optional<lens::Routes> routes;
  if (!command.routes.empty()) {
    progress.show(fmt::format("routes of {}", command.routes));
    routes = routes_of(command, engine);
    command.bench.routes = &*routes;
  }
  command.bench.on_progress = [&](std::string_view text) { progress.show(text); };
  command.bench.on_long = [&](double seconds) {
    progress.clear();
    print_warning(fmt::format("this will take about {:.0f} minutes: a smaller --batch, --prompt or --repeat takes less",
                              std::ceil(seconds / 60)));
  };
  const runtime::BenchResult result = runtime::bench(engine, command.bench);
  forecast.cache += result.draft_states;
  // Now, with the threads that ran the model: a shared machine has less an hour, or a minute, later. Where memory has
  // no room for it beside the weights, what was measured another time.
  progress.show("measuring the machine");
  runtime::MachineLimits machine;
  for (const bool again : {true, false}) {
    try {
      machine = runtime::machine_limits(engine.context().pool, engine.context().kernels, again);
      break;
    } catch (const base::Error& error) {
      if (error.kind() != base::ErrorKind::out_of_memory) throw;
      if (!again)
        print_warning("no memory is left to measure the machine beside the model, so its limits are not shown");
    }
  }
  progress.clear();
  if (command.json)
    print(as_json(command, engine, result, machine, forecast.resident(), load).dump(2) + "\n");
  else
    print(as_text(command, engine, result, machine, forecast.resident(), load));
  print_reads(engine);
  return 0;
}

CLI::Option* add_shape_options(CLI::App* command, const std::shared_ptr<BenchCommand>& options, CLI::Option* model) {
  CLI::Option* shape =
      command
          ->add_option("--shape", options->shape.shape,
                       fmt::format("Instead of a MODEL: a config.json or a published shape, with random weights: {}",
                                   runtime::shape_names()))
          ->type_name("NAME")
          ->check(reads())
          ->excludes(model);
  command->add_option("--layers", options->shape.layers, "How many layers of the shape (default: all of them)")
      ->type_name("L")
      ->check(at_least(1))
      ->needs(shape);
  command->add_option("--quant", options->quant, "Format of the shape's matrices")
      ->type_name("T")
      ->capture_default_str()
      ->needs(shape);
  command
      ->add_option("--write", options->write,
                   "Write the random model to a GGUF file, for other engines, and measure it from there")
      ->type_name("FILE.gguf")
      ->check(writes())
      ->needs(shape);
  add_force(*command, options->force)->needs("--write");
  command
      ->add_option("--router-spread", options->shape.router_spread,
                   "Random routers that meet some experts far more often than others, in any engine: S is the standard "
                   "deviation of the logarithm of the scale of their rows (1.2 is about Qwen3; default: 0, evenly)")
      ->type_name("S")
      ->needs(shape);
  command
      ->add_option("--routes", options->routes,
                   fmt::format("Send tokens where these went instead of where the routers would: a file of coterie "
                               "trace, a .jsonl (examples/routes), or drawn as a published model routes: fitted:NAME "
                               "of {}",
                               lens::fitted_names()))
      ->type_name("FILE")
      ->check(reads());
  command
      ->add_option(
          "--recall", options->bench.recall,
          "With --routes, where experts are read from the disk: simulate a look-ahead that guesses an expert so "
          "often\n(published models: 0.75 to 0.9; default: 0, none, since the routers know nothing of the routes)")
      ->type_name("R")
      ->check(number_between(0, 1))
      ->needs("--routes");
  return shape;
}

CLI::Option* add_disk_options(CLI::App* command, const std::shared_ptr<BenchCommand>& options) {
  CLI::Option* disk =
      command
          ->add_option(
              "--disk", options->disk,
              "Measure the disk that FILE lies on, by reading FILE: bytes a second by size and number of reads")
          ->type_name("FILE")
          ->check(reads());
  command->add_option("--seconds", options->seconds, "How many seconds the disk is measured for, at least 10")
      ->capture_default_str()
      ->needs(disk);
  return disk;
}

void add_measurement_options(CLI::App* command, const std::shared_ptr<BenchCommand>& options) {
  options->prompt = command->add_option("--prompt", options->bench.prompt, "Tokens evaluated at once; 0 = skip")
                        ->capture_default_str();
  options->generate = command->add_option("--generate", options->bench.generate, "Tokens decoded one by one; 0 = skip")
                          ->capture_default_str();
  command->add_option("--depth", options->bench.depth, "Tokens in the cache before prefill and decode begin")
      ->capture_default_str();
  command->add_option("--batch", options->bench.batch, "Sequences side by side")->capture_default_str();
  CLI::Option* const drafted =
      command
          ->add_option("--draft-tokens", options->bench.drafted,
                       "Measure steps that verify drafts of 1 to N tokens (--speculate), and what they gain by "
                       "acceptance;\nmaking the drafts costs besides")
          ->type_name("N")
          ->check(between(0, 64))
          ->capture_default_str();
  command
      ->add_option("--acceptance", options->bench.acceptance,
                   "With --draft-tokens: how often a drafted token is accepted, 0 to 1")
      ->type_name("A")
      ->check(number_between(0, 1))
      ->capture_default_str()
      ->needs(drafted);
  command->add_option("--repeat", options->bench.repeat, "Rounds of each; the median counts")->capture_default_str();
  command->add_option("--step-tokens", options->step_tokens, "Tokens a prefill step evaluates at most")
      ->check(at_least(1))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON");
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  auto options = std::make_shared<BenchCommand>();
  CLI::App* command = app.add_subcommand("bench", "Measure a model's speed against what the machine can do");
  CLI::Option* model =
      command->add_option("MODEL", options->model.model, "A model's folder or .gguf file")->check(reads());
  CLI::Option* shape = add_shape_options(command, options, model);
  CLI::Option* disk = add_disk_options(command, options)->excludes(model)->excludes(shape);
  add_measurement_options(command, options);
  options->model.add_routing(*command);
  options->model.add_engine(*command, true);
  command->footer(
      "Examples:\n"
      "  coterie bench model.gguf\n"
      "  coterie bench ./OLMoE-1B-7B --prompt 2048 --depth 4096 --threads 8 --json\n"
      "  coterie bench --shape qwen3-30b-a3b --layers 16 --quant q4_k\n"
      "  coterie bench --shape my-model/config.json --prompt 0 --batch 8\n"
      "  coterie bench --shape qwen3-30b-a3b --layers 4 --experts-per-token 6 --routes qwen.jsonl\n"
      "  coterie bench --disk model.gguf");
  command->callback([=, &action] {
    if (disk->count() > 0) {
      for (const CLI::Option* option : command->get_options())
        if (option->count() > 0 && option != disk && !option->check_name("--seconds") && !option->check_name("--json"))
          throw CLI::ExcludesError("--disk", option->get_name());
      action = [options] { return bench_disk_command(options->disk, options->seconds, options->json); };
      return;
    }
    if (model->count() + shape->count() == 0) throw CLI::RequiredError("MODEL, --shape or --disk");
    action = [options] { return bench_command(*options); };
  });
}

}  // namespace coterie::cli
