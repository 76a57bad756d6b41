#include "cli/ranks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/fnv.h"
#include "base/memory.h"
#include "base/plural.h"
#include "cli/print_ranks.h"
#include "cli/terminal.h"
#include "comm/delayed.h"
#include "comm/error_text.h"
#include "comm/ranks.h"
#include "families/ensemble/gate.h"
#include "kernels/table.h"
#include "lens/routes.h"
#include "runtime/inspection.h"
#include "runtime/ranks/agreement.h"
#include "runtime/ranks/layer_cuts.h"
#include "runtime/ranks/measure_network.h"
#include "runtime/ranks/model_ranks.h"
#include "runtime/ranks/plan.h"
#include "threads/topology.h"

namespace coterie::cli {

using base::Error;
using base::ErrorKind;

namespace {

constexpr std::array<std::string_view, 8> kCommands = {"run",   "chat",  "eval",  "logits",
                                                       "bench", "trace", "embed", "serve"};
// Those that all ranks do.
constexpr std::array<std::string_view, 2> kOfAll = {"train", "tune"};

template <size_t N>
bool is_one_of(const std::array<std::string_view, N>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::map<const CLI::App*, const ModelOptions*>& known_options() {
  static std::map<const CLI::App*, const ModelOptions*> all;
  return all;
}

/// This process's part in a run of several ranks.
struct Run {
  comm::Ranks ranks;
  runtime::ModelRanks::Options how = {};     // the model is divided; rank 0 decides
  runtime::OwnWeights weights = {};          // of this rank, of the open model
  std::optional<runtime::ModelRanks> model;  // of rank 0, when it is open
  std::string command;                       // words_of() it
  std::optional<train::Team> team;           // of a command that trains
};
Run* this_run = nullptr;

/// The command with its options, which must be the same on all ranks. Not those that say how a host does its part; a
/// long value by its beginning and a digest.
std::string words_of(const CLI::App& command) {
  constexpr std::array<std::string_view, 4> kOfHost = {"--threads", "--file-pages", "--quiet", "--json"};
  constexpr size_t kShown = 60;
  std::string words = command.get_name();
  for (const CLI::Option* const option : command.get_options()) {
    if (option->count() == 0) continue;
    if (std::any_of(kOfHost.begin(), kOfHost.end(),
                    [&](std::string_view name) { return option->check_name(std::string(name)); }))
      continue;
    words += " " + option->get_name();
    for (const std::string& value : option->results()) {
      uint64_t digest = base::kFnvBegin;
      for (const char c : value) digest = base::fnv_step(digest, static_cast<unsigned char>(c));
      words += " " + (value.size() <= kShown ? value : fmt::format("{}… ({:016x})", value.substr(0, kShown), digest));
    }
  }
  return words;
}

/// Compares ranks, and forces the instruction set that all of them have.
void agree_and_force(const runtime::Introduction& own) {
  const std::string isa = runtime::agree(this_run->ranks, own);
  const std::string had(kernels::select().isa);
  if (isa == had) return;
  if (this_run->ranks.rank() == 0)
    print_note(fmt::format("{} instead of {}: not every rank's processor has it", isa, had));
  ::setenv("COTERIE_ISA", isa.c_str(), 1);
}

/// Which weights of an open model this rank reads.
runtime::OwnWeights own_weights(const models::Decoder& decoder) {
  const comm::Ranks& ranks = this_run->ranks;
  switch (this_run->how.split) {
    case runtime::Split::experts: break;
    case runtime::Split::rows: return {.rows = {ranks.rank(), ranks.size(), this_run->how.least_weights}};
    case runtime::Split::layers: {
      const runtime::LayerSpan span = runtime::cut_layers(decoder, ranks.size())[static_cast<size_t>(ranks.rank())];
      const bool outside = ranks.rank() == 0 || !decoder.spec().shared.empty();
      return {.first_layer = span.first, .end_layer = span.end, .outside = outside};
    }
  }
  return {};
}

/// Which rank has which experts: neighbours, or by a file of routes (--placement).
std::shared_ptr<const runtime::ExpertPlacement> placement_of(const ModelOptions& options, int ranks) {
  if (options.placement.empty()) return std::make_shared<const runtime::ExpertPlacement>(ranks);
  const lens::Routes routes = lens::read_routes(options.placement);
  runtime::InspectionOptions wanted;
  wanted.open = options.open_options();
  const models::ModelSpec spec = runtime::inspect(options.model, wanted).spec;
  std::vector<std::vector<int64_t>> counts(spec.blocks.size());
  int64_t routed = 0;
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    const auto* const moe = std::get_if<layers::MoeSpec>(&spec.blocks[layer].ffn);
    if (!moe) continue;
    counts[layer].resize(static_cast<size_t>(moe->experts_with_weights()));
    for (int64_t token = 0; routed < routes.layers && token < routes.tokens(); ++token)
      for (const int16_t expert : routes.at(token, routed))
        if (expert >= 0 && expert < std::ssize(counts[layer])) ++counts[layer][static_cast<size_t>(expert)];
    ++routed;
  }
  if (routed != routes.layers)
    throw Error(ErrorKind::bad_input, options.placement,
                fmt::format("has routes of {} layers, and the model routes in {}", routes.layers, routed),
                "coterie trace of this model writes them");
  return std::make_shared<const runtime::ExpertPlacement>(ranks, counts, options.hot_experts);
}

/// One step of every rank: the model is opened with this rank's experts, and compared with the others'.
families::Model open_part(const ModelOptions& options) {
  families::OpenOptions open = options.open_options();
  runtime::Introduction own{.options = this_run->command, .files = {}, .error = {}, .isas = {}};
  std::optional<families::Model> model;
  try {
    if (this_run->how.split == runtime::Split::experts) {
      const auto placement = placement_of(options, this_run->ranks.size());
      this_run->how.placement = placement;
      open.owns_expert = [placement, rank = this_run->ranks.rank()](int64_t layer, int64_t expert, int64_t experts) {
        return placement->owns(rank, layer, expert, experts);
      };
    } else if (!options.placement.empty()) {
      throw Error(ErrorKind::bad_input, "--placement", "places experts, and the model is divided by something else",
                  "--split experts, or without --placement");
    }
    model.emplace(families::open_model(options.model, open));
    own.files = runtime::fingerprint_of(*model);
  } catch (const Error& error) {
    own.error = comm::error_text(error);
  }
  agree_and_force(own);
  this_run->weights = own_weights(*model->decoder);
  return std::move(*model);
}

/// --split auto: the network is measured, and what each split would do is predicted and said.
runtime::Split measured_split(const ModelOptions& options) {
  const comm::Ranks& ranks = this_run->ranks;
  threads::Pool pool(threads_of_rank(options.threads));
  runtime::InspectionOptions wanted;
  wanted.open = options.open_options();
  wanted.context = options.context;
  wanted.threads = pool.threads();
  const runtime::Inspection model = runtime::inspect(options.model, wanted);
  const runtime::MachineLimits machine = runtime::machine_limits(pool, kernels::select());
  const runtime::MeasuredRanks measured = runtime::measure_ranks(this_run->ranks);
  const Splits splits = splits_of(model, machine, ranks.size(), measured.network);
  const runtime::SplitPlan& best = runtime::best_split(splits.plans, measured.memory);
  print_note(fmt::format(
      "{} ranks, measured: {:.1f} us and {}/s from one to another, {} of memory for each; predicted:\n{}"
      "--split {}: the fastest answer of 128 tokens to 512 of those that fit",
      ranks.size(), measured.network.latency * 1e6, base::human_bytes(static_cast<int64_t>(measured.network.rate)),
      base::human_bytes(measured.memory), splits_table(splits), runtime::name(best.split)));
  return best.split;
}

/// What rank 0 says when the others are to open the model.
comm::Writer open_message(const runtime::ModelRanks::Options& how) {
  comm::Writer message(comm::Kind::open, 0, -1);
  message.value(static_cast<int64_t>(how.split));
  message.value(how.least_weights);
  return message;
}
runtime::ModelRanks::Options read_open_message(comm::Message& message) {
  runtime::ModelRanks::Options how;
  how.split = static_cast<runtime::Split>(message.value<int64_t>());
  how.least_weights = message.value<int64_t>();
  return how;
}

/// The launcher's ranks; with COTERIE_EMULATED_NETWORK, of one machine, as if such a network lay between them.
std::unique_ptr<comm::Communicator> join_ranks(const comm::Launch& launch) {
  std::unique_ptr<comm::Communicator> ranks = comm::join(launch);
  const char* const emulated = std::getenv("COTERIE_EMULATED_NETWORK");
  if (!emulated) return ranks;
  const runtime::Network network = runtime::network_by_name(emulated);
  return comm::delayed(std::move(ranks), {.latency = network.latency, .rate = network.rate, .seed = 0});
}

/// While it lives: a rank that waits for others to start says so and ends the run, by the same deadlines as later.
/// Inside MPI there are none.
class StartWatch {
 public:
  StartWatch(const comm::Launch& launch, comm::Patience patience)
      : thread_([this, launch, patience = std::move(patience)](const std::stop_token& stop) {
          const auto waits = [&](double seconds) {
            std::unique_lock lock(mutex_);
            return !changed_.wait_for(lock, stop, std::chrono::duration<double>(seconds), [&] { return false; }) &&
                   !stop.stop_requested();
          };
          if (!waits(patience.notice)) return;
          const std::string text =
              fmt::format("not all of {} ranks that {} was to start have come", launch.size, launch.launcher);
          if (launch.rank == 0) patience.say(text);
          if (!waits(patience.limit - patience.notice)) return;
          if (launch.rank == 0)
            print_error(fmt::format("ranks: {}, for {:.0f} s by now", text, patience.limit),
                        "a host may be down, or start another program");
          std::_Exit(
              base::exit_code(ErrorKind::io));  // whoever is in MPI does not come back; the launcher ends the rest
        }) {}

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::jthread thread_;
};

void warn_about_processors(const comm::Ranks& ranks) {
  const auto mine = std::ssize(threads::Topology::read().cpus);
  const auto online = static_cast<int64_t>(::sysconf(_SC_NPROCESSORS_ONLN));
  if (mine == 1 && online > ranks.ranks_of_host())
    print_warning(
        fmt::format("the launcher has bound this rank to one of {} processors: mpirun --bind-to none, or "
                    "srun --cpu-bind=none, gives it the others",
                    online));
  if (ranks.ranks_of_host() > online)
    print_warning(fmt::format("{} on a host with {}: ranks that take turns are slower than fewer",
                              base::plural(ranks.ranks_of_host(), "rank"), base::plural(online, "processor")));
}

/// Opens the model when rank 0 does and answers it, until it says that all is done.
void serve(const ModelOptions& options) {
  // Rank 0 decides when the run ends: Ctrl-C and SIGTERM go to all.
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, SIG_IGN);
  while (true) {
    comm::Message message = this_run->ranks.receive_next();
    if (message.header().kind == comm::Kind::probe) {
      runtime::answer_probe(this_run->ranks, message);
      continue;
    }
    if (message.header().kind != comm::Kind::open) return;
    try {
      this_run->how = read_open_message(message);
      families::Model model = open_part(options);
      std::optional<runtime::Engine> engine;
      runtime::together(this_run->ranks, [&] { engine.emplace(std::move(model), options.engine_options()); });
      runtime::ModelRanks model_ranks(this_run->ranks, *engine->model().decoder, this_run->how);
      engine->serve(model_ranks);
      return;
    } catch (const Error&) {  // rank 0 knows of it, and says what comes next
    }
  }
}

std::string summary(const comm::Ranks& ranks, double seconds) {
  const comm::Traffic& sent = ranks.traffic();
  return fmt::format("{} ranks over {} · sent {} in {} · waited {:.0f} % of {:.1f} s", ranks.size(), ranks.transport(),
                     base::human_bytes(sent.header_bytes + sent.payload_bytes), base::plural(sent.messages, "message"),
                     100 * ranks.waited() / std::max(seconds, 1e-9), seconds);
}

/// What all ranks do: each ends with its own error, which it has told the others.
int do_on_all(const Action& action, const base::Stopwatch& clock) {
  comm::Ranks& ranks = this_run->ranks;
  try {
    const int code = action();
    flush_output();
    if (ranks.rank() == 0) print_note(summary(ranks, clock.seconds()));
    return code;
  } catch (const Error& error) {
    if (!ranks.lost()) throw;
    if (ranks.rank() == 0) print_error(error.what(), error.hint());
    ranks.abort(base::exit_code(error.kind()));
    throw;
  }
}

}  // namespace

void remember_model_options(const CLI::App& command, const ModelOptions& options) {
  known_options()[&command] = &options;
}

void silence_unless_first(const comm::Launch& launch) {
  if (launch.rank == 0) return;
  for (std::FILE* const stream : {stdout, stderr})
    if (!std::freopen("/dev/null", "w", stream)) std::fclose(stream);
}

int run_on_ranks(const comm::Launch& launch, const CLI::App& app, const Action& action) {
  const CLI::App* const command = app.get_subcommands().front();
  const auto options = known_options().find(command);
  const std::string& name = command->get_name();
  const bool of_all = is_one_of(kOfAll, name);
  if (!of_all && (options == known_options().end() || !is_one_of(kCommands, name)))
    throw Error(ErrorKind::unsupported, "coterie " + name, "runs on one rank", "start it without " + launch.launcher);
  comm::Patience patience;
  if (const char* const limit = std::getenv("COTERIE_RANK_PATIENCE")) {
    patience.limit = std::atof(limit), patience.notice = patience.limit / 2;
    if (!(patience.limit > 0))
      throw Error(ErrorKind::bad_input, "COTERIE_RANK_PATIENCE",
                  fmt::format("\"{}\" is not a number of seconds", limit));
  }
  patience.say = [](const std::string& text) { print_warning(text); };
  // Rank 0 alone says what is wrong, and a launcher ends everybody once anyone has left with an error: the others leave
  // after it, with the connection closed.
  struct Leave {
    bool late = false;
    ~Leave() {
      if (late) std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  } leave;
  std::optional<StartWatch> watch(std::in_place, launch, patience);
  Run own{comm::Ranks(join_ranks(launch), patience), {}, {}, {}, words_of(*command), {}};
  this_run = &own;
  const struct Forget {
    ~Forget() { this_run = nullptr; }
  } forget;
  own.ranks.meet();
  watch.reset();
  if (own.ranks.rank() != 0 && !of_all) {
    serve(*options->second);
    return 0;
  }
  if (own.ranks.rank() == 0) warn_about_processors(own.ranks);
  const base::Stopwatch clock;
  if (of_all) {
    leave.late = own.ranks.rank() != 0;
    const int code = do_on_all(action, clock);
    leave.late = false;
    return code;
  }
  try {
    const int code = action();
    flush_output();
    print_note(summary(own.ranks, clock.seconds()));
    runtime::stop_others(own.ranks);
    return code;
  } catch (const Error& error) {
    if (own.ranks.lost() || own.ranks.ended_rank()) {  // who does not answer does not stop either
      print_error(error.what(), error.hint());
      own.ranks.abort(base::exit_code(error.kind()));
    }
    runtime::stop_others(own.ranks);
    throw;
  } catch (...) {
    runtime::stop_others(own.ranks);
    throw;
  }
}

bool on_ranks() { return this_run != nullptr; }

int ranks() { return this_run ? this_run->ranks.size() : 1; }

int threads_of_rank(int asked) {
  // Ranks of one host share its cores, unless the launcher has given each its own.
  const threads::Topology topology = threads::Topology::read();
  const bool bound = std::ssize(topology.cpus) < ::sysconf(_SC_NPROCESSORS_ONLN);
  if (!this_run || asked > 0 || bound) return asked;
  return std::max(1, topology.default_threads() / this_run->ranks.ranks_of_host());
}

train::Team* join_training(const std::function<std::string()>& options) {
  if (!this_run || this_run->ranks.size() == 1) return nullptr;
  runtime::Introduction own;
  try {
    own.options = options();
  } catch (const Error& error) {
    own.error = comm::error_text(error);
  }
  agree_and_force(own);
  return &this_run->team.emplace(this_run->ranks);
}

families::Model open_for_engine(const ModelOptions& options) {
  if (!this_run) return families::open_model(options.model, options.open_options());
  if (families::is_ensemble(options.model))
    throw Error(ErrorKind::unsupported, options.model, "is an ensemble, whose models are not divided over ranks",
                "start it without the launcher");
  if (this_run->model) throw Error(ErrorKind::unsupported, options.model, "is a second model, and ranks serve one");
  this_run->how = {};
  if (options.split == "auto")
    this_run->how.split = measured_split(options);
  else if (!options.split.empty())
    this_run->how.split = *runtime::split_by_name(options.split);
  for (int to = 1; to < this_run->ranks.size(); ++to) this_run->ranks.send(to, open_message(this_run->how));
  families::Model model = open_part(options);
  runtime::together(this_run->ranks, [] {});
  this_run->model.emplace(this_run->ranks, *model.decoder, this_run->how);
  return model;
}

void require_all_ranks() {
  if (!this_run) return;
  const std::optional<int> ended = this_run->ranks.ended_rank();
  if (!ended && !this_run->ranks.lost()) return;
  throw Error(ErrorKind::io, "ranks",
              ended ? this_run->ranks.describe(*ended) + " has ended" : "one of them has not answered",
              "what was open was answered with 503; start all ranks again");
}

runtime::Split split_of_ranks() { return this_run ? this_run->how.split : runtime::Split::experts; }

void add_ranks(runtime::EngineOptions& options) {
  if (!this_run) return;
  options.part_of_a_model = true;
  options.own = this_run->weights;
  if (this_run->model) options.ranks = &*this_run->model;
  options.threads = threads_of_rank(options.threads);
}

}  // namespace coterie::cli
