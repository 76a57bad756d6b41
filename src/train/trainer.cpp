#include "train/trainer.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/error.h"
#include "families/open.h"
#include "models/parameters.h"
#include "train/checkpoint_files.h"
#include "train/fresh_model.h"
#include "train/log_file.h"
#include "train/not_finite.h"
#include "train/pass.h"
#include "train/ranks/expert_exchange.h"
#include "train/ranks/gathered_weights.h"
#include "train/ranks/shared_weights.h"
#include "train/ranks/team.h"
#include "train/router_watch.h"
#include "train/run_checks.h"
#include "train/run_data.h"
#include "train/run_folder.h"
#include "train/tuned_model.h"
#include "train/unheard_keys.h"

namespace coterie::train {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::Json;

namespace {

// Figures of the routers are written this often over a run: a column each on the report's maps.
constexpr int64_t kRouterEvents = 200;
// Windows of the training data that an evaluation looks at when it looks at all validation data.
constexpr int64_t kMostTrainingWindows = 256;

}  // namespace

struct Trainer::State {
  State(Recipe recipe_of_run, const TrainerOptions& run_options, threads::Pool& pool,
        const kernels::KernelTable& kernels, TrainerListener to_tell)
      : recipe(std::move(recipe_of_run)),
        options(run_options),
        listener(std::move(to_tell)),
        team(options.team ? *options.team : alone),
        folder(options.run),
        resumed(take_up()),
        taken(checkpoint_to_take(folder, recipe, resumed, options.from)),
        start(begin_folder()),
        tuned(open_tuned()),
        data(team.first_of_all([&] { return open_data(recipe, folder, has_data(), tuned.get(), listener.note); })),
        trainee(team.first_of_all([&] { return make_trainee(); })),
        decoder(&trainee->decoder()),
        context{pool, kernels, arena, ops::Precision::f32} {
    const models::ModelSpec& spec = decoder->spec();
    if (spec.vocabulary < data.tokenizer.vocabulary_size())
      base::fail(ErrorKind::bad_input, recipe.name, "vocab_size is {}, and the tokenizer has {} tokens",
                 spec.vocabulary, data.tokenizer.vocabulary_size());
    if (recipe.sequence > spec.context)
      base::fail(ErrorKind::bad_input, recipe.name, "sequences of {} tokens for a model of {} positions",
                 recipe.sequence, spec.context);
    parameters = trainee->parameters([&](int64_t count) { return team.own(count); });
    weights = std::make_unique<SharedWeights>(team, *parameters, recipe.shards);
    weights->add_to(optimiser, recipe.weight_decay, recipe.vector_decay);
    if (taken) progress = read_progress(folder.checkpoint(*taken), optimiser, weights->trained_parameters());
    if (!recipe.extended.empty() && recipe.schedule.steps <= progress.step)
      throw base::Error(ErrorKind::bad_input, "extend",
                        fmt::format("the run is at step {} of {}: there is nothing left to change", progress.step,
                                    recipe.schedule.steps),
                        fmt::format("`extend` steps=N with more than {} makes it go on", progress.step));
    tape = std::make_unique<ops::Tape>(arena, parameters->gradients());
    pass = std::make_unique<Pass>(*decoder, recipe.sequence);
    if (!team.alone()) experts = std::make_unique<ExpertExchange>(team);
    watch = std::make_unique<RouterWatch>(recipe, spec, team);
    account = models::account(spec);
    flops_per_token = trainee->flops_per_token(account);
    check_guards();
    warnings = spec.warnings;
    for (std::string& sentence : unheard_keys(trainee->config(), recipe)) warnings.push_back(std::move(sentence));
    team.wait_for_all();  // before what they read is changed
    team.begin_run(progress.step);
    // Without a checkpoint everything is done again, and logged again.
    if (team.first()) {
      log = std::make_unique<LogFile>(folder.log(), taken.has_value());
      if (options.from) folder.remove_after(*options.from);
      if (!recipe.extended.empty())
        folder.extend(recipe.source, {{"step", progress.step}, {"changes", recipe.extended}});
    }
    log_ended = team.of_first(log && log->ended() ? 1 : 0) != 0;
  }

  bool take_up() {
    require_ranks(recipe, team.size());
    const bool there = folder.take_up(recipe.before.is_null() ? recipe.source : recipe.before, options.resume);
    team.wait_for_all();  // all have looked before rank 0 begins to write
    return there;
  }
  std::unique_ptr<RunStart> begin_folder() {
    return team.first() ? std::make_unique<RunStart>(folder, with_origin(recipe), resumed) : nullptr;
  }
  // What rank 0 writes into the folder the others find there.
  bool has_data() const { return resumed || !team.first(); }

  static Json with_origin(const Recipe& recipe) {
    Json json = recipe.source;
    json["run"] = recipe.origin;
    return json;
  }

  std::unique_ptr<TunedModel> open_tuned() {
    if (!recipe.tune) return nullptr;
    listener.note("opening the model");
    std::function<bool(int64_t, int64_t, int64_t)> owns;
    if (!team.alone())
      owns = [this](int64_t, int64_t expert, int64_t of) {
        const auto [first, end] = team.own(of);
        return expert >= first && expert < end;
      };
    return std::make_unique<TunedModel>(*recipe.tune, recipe.seed, taken ? folder.checkpoint(*taken) : fs::path(),
                                        recipe.prediction_loss, owns);
  }

  std::unique_ptr<Trainee> make_trainee() {
    if (!tuned)
      return std::make_unique<FreshModel>(recipe, folder, taken, data.tokenizer.vocabulary_size(), team.first(),
                                          1.0 / team.size());
    require_room(recipe, tuned->decoder().spec());
    return std::move(tuned);
  }

  // What keeps a model from learning its data by heart, where there is nothing for it to act on.
  void check_guards() const {
    if (recipe.expert_dropout > 0 && watch->expert_layers().empty())
      base::fail(ErrorKind::bad_input, recipe.name, "expert_dropout is {}, and the model has no experts",
                 recipe.expert_dropout);
    if (recipe.expert_dropout > 0 && soft_slots(decoder->spec()))
      base::fail(ErrorKind::bad_input, recipe.name,
                 "expert_dropout is {}, and experts that read mixtures of tokens (Soft MoE) have none",
                 recipe.expert_dropout);
    if (recipe.balance.bias_rate > 0 && !trainee->trains_routers())
      base::fail(ErrorKind::bad_input, recipe.name, "balance: bias_rate moves a bias of the routers, which are frozen");
  }

  void tell(const Json& event) {
    if (!team.first()) return;
    log->write(event);
    listener.event(event);
  }
  Json at(const char* kind) const {
    return {{"kind", kind}, {"step", progress.step}, {"tokens", progress.tokens}, {"seconds", progress.seconds}};
  }

  bool run(const std::atomic<bool>& stop);
  bool finished() const { return (progress.step >= recipe.schedule.steps || out_of_patience()) && log_ended; }
  void begin(const std::atomic<bool>& stop);
  double step_losses();
  void step();
  // False and no event when it is stopped.
  bool evaluate(const std::atomic<bool>& stop);
  // Takes an evaluation's loss and keeps the best, where the recipe has patience.
  void judge(double loss);
  bool out_of_patience() const { return recipe.patience > 0 && progress.waited >= recipe.patience; }
  void write_model(const fs::path& path, GatheredWeights& gathered) const;
  // Calls `write` where files are written, which may ask other ranks for what they have.
  void write_files(const std::function<void(GatheredWeights&)>& write);
  // The first place that a rank has found something wrong at; empty: none has.
  std::string first_place(const std::string& own);
  void write_checkpoint();
  std::string layer_of_not_a_number();
  [[noreturn]] void stop_at_no_number(const char* what, const std::string& place);

  int64_t micro_batches() const { return recipe.batch / recipe.micro_batch; }
  int64_t scored_of_step() const { return data.training.scored(progress.step * recipe.batch, recipe.batch); }
  int64_t first_window(int64_t part) const { return progress.step * recipe.batch + part * recipe.micro_batch; }
  ops::Context working_context() const {
    ops::Context working = context;
    working.precision = recipe.precision;
    return working;
  }
  models::PassOptions loss_options() const;
  // The mean loss of the head for multi-token prediction since it was last taken, where there is one.
  std::optional<double> take_head_loss() const {
    const models::PredictingDecoder* const predicting = trainee->predicting();
    return predicting ? std::optional(predicting->take_head_loss().mean()) : std::nullopt;
  }
  // The loss of a part of the current step.
  double part_loss(int64_t part, bool backward);

  Recipe recipe;
  TrainerOptions options;
  TrainerListener listener;
  Team alone;
  Team& team;
  RunFolder folder;
  bool resumed;
  std::optional<int64_t> taken;       // the step of the checkpoint that was taken up
  std::unique_ptr<RunStart> start;    // of rank 0
  std::unique_ptr<TunedModel> tuned;  // whose vocabulary the data need; it becomes the trainee
  RunData data;
  std::unique_ptr<Trainee> trainee;
  models::Decoder* decoder;
  tensor::Arena arena{16 << 20};
  ops::Context context;
  std::unique_ptr<models::Parameters> parameters;
  AdamW optimiser{recipe.optimiser};
  Progress progress;
  std::unique_ptr<SharedWeights> weights;
  std::unique_ptr<ExpertExchange> experts;  // null: all are here
  std::unique_ptr<ops::Tape> tape;
  std::unique_ptr<Pass> pass;
  std::unique_ptr<RouterWatch> watch;
  models::Account account;
  std::vector<std::string> warnings;
  double flops_per_token = 0;
  std::unique_ptr<LogFile> log;  // of rank 0
  bool log_ended = false;
};

void Trainer::State::begin(const std::atomic<bool>& stop) {
  if (taken) {
    Json event = at("resume");
    if (!recipe.extended.empty()) event.update(Json{{"steps", recipe.schedule.steps}, {"extended", recipe.extended}});
    tell(event);
    // An evaluation that was stopped is made up for. Patience counts those that its checkpoint knows of.
    const auto logged = static_cast<int64_t>(team.of_first(log ? static_cast<double>(log->evaluated()) : 0));
    const int64_t evaluated = recipe.patience > 0 ? progress.judged_step : logged;
    if (progress.step < recipe.schedule.steps && progress.step % recipe.evaluate_every == 0 &&
        evaluated < progress.step)
      evaluate(stop);
    return;
  }
  Json expert_layers = Json::array();
  for (const int64_t layer : watch->expert_layers()) expert_layers.push_back(layer);
  Json places = Json::object();
  for (int p = 0; p < models::kPlaces; ++p)
    places[std::string(models::name(static_cast<models::Place>(p)))] = {account.held[static_cast<size_t>(p)],
                                                                        account.active[static_cast<size_t>(p)]};
  Json begun = at("start");
  begun.update(Json{{"name", recipe.name},
                    {"description", recipe.description},
                    {"recipe", recipe.source},
                    {"steps", recipe.schedule.steps},
                    {"parameters", account.total()},
                    {"active_parameters", account.total_active()},
                    {"places", places},
                    {"flops_per_token", flops_per_token},
                    {"expert_layers", expert_layers},
                    {"vocabulary", decoder->spec().vocabulary},
                    {"training_tokens", data.training.inputs(0, data.training.windows.per_epoch())},
                    {"bytes_per_token", data.bytes_per_token},
                    {"threads", context.pool.threads()},
                    {"isa", std::string(context.kernels.isa)},
                    {"peak_flops", options.peak_flops}});
  if (recipe.shards > 1) begun.update(Json{{"shards", recipe.shards}, {"ranks", team.size()}});
  if (const Json trainable = trainee->trainable(); !trainable.is_null()) begun["trainable"] = trainable;
  if (!data.instructions.is_null()) begun["instructions"] = data.instructions;
  tell(begun);
  evaluate(stop);
}

models::PassOptions Trainer::State::loss_options() const {
  models::PassOptions asked;
  asked.gradient_weight = 1 / static_cast<double>(scored_of_step());
  asked.training = true;
  asked.dropout = static_cast<float>(recipe.dropout);
  asked.expert_dropout = static_cast<float>(recipe.expert_dropout);
  asked.recompute = recipe.recompute;
  asked.experts = experts.get();
  return asked;
}

double Trainer::State::part_loss(int64_t part, bool backward) {
  models::PassOptions asked = loss_options();
  asked.observer = watch.get();
  if (backward) asked.router_loss = watch->loss();
  const ops::Context working = working_context();
  ops::Context recording = working;
  if (backward) recording.tape = tape.get();
  const double loss = pass->loss(recording, data.training, first_window(part), recipe.micro_batch, recipe.seed, asked);
  if (backward) tape->backward(working);
  return loss;
}

double Trainer::State::step_losses() {
  team.begin_step(progress.step + 1);
  parameters->clear_gradients();
  weights->begin_step();
  watch->begin_step();
  if (experts) experts->forget();
  // Micro-batches are dealt out to the shards in turn, and shards to the ranks: so are micro-batches to the ranks.
  if (watch->must_count_first() && micro_batches() > 1) {
    for (int64_t part = team.rank(); part < micro_batches(); part += team.size()) {
      watch->begin_count();
      part_loss(part, false);
    }
    watch->share_counts();
  }
  watch->begin_gradients();
  std::vector<double> losses;
  for (int64_t part = team.rank(); part < micro_batches(); part += team.size()) {
    const int64_t shard = part % recipe.shards;
    watch->begin_part(shard);
    weights->select(shard);
    losses.push_back(part_loss(part, true));
  }
  weights->add_up();
  const std::vector<std::vector<double>> all = team.gather(std::span<const double>(losses));
  double loss = 0;
  for (size_t part = 0; part < losses.size(); ++part)
    for (const std::vector<double>& of_rank : all) loss += of_rank[part];
  return loss / static_cast<double>(scored_of_step());
}

void Trainer::State::step() {
  const base::Stopwatch watch_time;
  take_head_loss();
  const double loss = step_losses();
  const std::optional<double> head_loss = take_head_loss();
  if (!std::isfinite(loss) || !std::isfinite(head_loss.value_or(0))) {
    const std::string weight = first_place(weight_not_finite(*parameters));
    if (!weight.empty()) stop_at_no_number("weights", weight);
    stop_at_no_number("loss", layer_of_not_a_number());
  }
  const double norm = weights->gradient_norm(optimiser, context.pool);
  if (!std::isfinite(norm))
    stop_at_no_number("gradients", "the gradient of " + first_place(gradient_not_finite(*parameters)));
  const double rate = recipe.learning_rate * recipe.schedule.at(progress.step);
  optimiser.step(context.pool, rate, recipe.clip && norm > *recipe.clip ? *recipe.clip / norm : 1);
  weights->spread_values();
  watch->end_step(*parameters);
  trainee->weights_changed();
  const double seconds = watch_time.seconds();
  const int64_t tokens = data.training.inputs(progress.step * recipe.batch, recipe.batch);
  ++progress.step;
  progress.tokens += tokens;
  progress.seconds += seconds;

  const double speed = static_cast<double>(tokens) / seconds;
  Json event = at("step");
  event.update(Json{{"loss", loss}, {"rate", rate}, {"gradient_norm", norm}, {"tokens_per_second", speed}});
  if (head_loss) event["prediction_loss"] = *head_loss;
  if (options.peak_flops > 0) event["peak_share"] = speed * flops_per_token / options.peak_flops;
  tell(event);
  const int64_t every = std::max<int64_t>(recipe.schedule.steps / kRouterEvents, 1);
  if (!watch->expert_layers().empty() && progress.step % every == 0) {
    Json routers = at("routers");
    weights->spread_gradients(layers::Place::router);
    routers.update(watch->figures(*parameters));
    tell(routers);
    watch->clear_figures();
  }
}

bool Trainer::State::evaluate(const std::atomic<bool>& stop) {
  const auto mean = [&](const Split& split, int64_t most) {
    const int64_t windows = recipe.windows_of_evaluation(std::min(most, split.windows.per_epoch()));
    return mean_loss(*pass, context, split, windows, recipe.evaluation_batch, {.experts = experts.get()}, team, stop);
  };
  Json event = at("evaluation");
  const std::optional<double> training = mean(data.training, kMostTrainingWindows);
  if (!training) return false;
  event["train"] = *training;
  take_head_loss();
  if (data.validation) {
    const std::optional<double> loss = mean(*data.validation, data.validation->windows.per_epoch());
    if (!loss) return false;
    event["validation"] = *loss;
    if (const auto head_loss = take_head_loss()) event["prediction"] = *head_loss;
    if (recipe.patience > 0) judge(*loss);
    if (data.bytes_per_token > 0) event["bits_per_byte"] = *loss / std::log(2.0) / data.bytes_per_token;
  }
  tell(event);
  return true;
}

void Trainer::State::judge(double loss) {
  const bool again = progress.best && progress.step == progress.judged_step;
  progress.judged_step = progress.step;
  if (progress.best && loss >= *progress.best) {
    if (!again) ++progress.waited;
    return;
  }
  progress.best = loss, progress.best_step = progress.step, progress.waited = 0;
  write_files([&](GatheredWeights& gathered) {
    folder.write_best([&](const fs::path& path) { write_model(path, gathered); });
  });
}

void Trainer::State::write_model(const fs::path& path, GatheredWeights& gathered) const {
  if (!team.alone()) gathered.fetch_into_memory(trainee->holds_all());
  trainee->write(path, folder.tokenizer(), recipe.name, gathered.reader());
}

void Trainer::State::write_files(const std::function<void(GatheredWeights&)>& write) {
  GatheredWeights gathered(team, *parameters, weights->ownership(), optimiser);
  gathered.write_on_first([&] { write(gathered); });
}

void Trainer::State::write_checkpoint() {
  if (const std::string place = first_place(weight_not_finite(*parameters)); !place.empty())
    stop_at_no_number("weights", place);
  write_files([&](GatheredWeights& gathered) {
    folder.write_checkpoint(progress.step, recipe.checkpoints_kept, [&](const fs::path& path) {
      write_model(path, gathered);
      recipe.shards == 1 ? write_moments(path, optimiser.tensors_to_write()) : gathered.write_moments(path);
      write_state(path, optimiser.steps(), progress);
    });
  });
}

std::string Trainer::State::first_place(const std::string& own) {
  for (const std::string& place : team.gather(own))
    if (!place.empty()) return place;
  return {};
}

// The layer whose output is the first that is not a number, when the step in hand is computed once more.
std::string Trainer::State::layer_of_not_a_number() {
  FirstNotFinite first;
  models::PassOptions asked = loss_options();
  asked.observer = &first;
  ops::Context working = working_context();
  for (int64_t part = team.rank(); part < micro_batches() && (first.layer() < 0 || !team.alone()); part += team.size())
    pass->loss(working, data.training, first_window(part), recipe.micro_batch, recipe.seed, asked);
  const std::string place = first_place(first.layer() < 0 ? "" : fmt::format("layer {}", first.layer()));
  return place.empty() ? "the output embeddings" : place;
}

void Trainer::State::stop_at_no_number(const char* what, const std::string& place) {
  const std::vector<int64_t> saved = folder.checkpoints();
  constexpr const char* kAdvice = "try a smaller learning_rate, a longer warmup, or clip";
  throw base::Error(
      ErrorKind::bad_input, recipe.name,
      fmt::format("step {}: not a finite number in the {}; it begins at {}", progress.step + 1, what, place),
      saved.empty() ? kAdvice : fmt::format("{} is good; {}", folder.checkpoint(saved.back()).string(), kAdvice));
}

Trainer::Trainer(Recipe recipe, const TrainerOptions& options, threads::Pool& pool, const kernels::KernelTable& kernels,
                 TrainerListener listener) {
  require_precision(recipe, kernels);
  try {
    state_ = std::make_unique<State>(std::move(recipe), options, pool, kernels, std::move(listener));
  } catch (const base::Error& error) {
    if (options.team) options.team->fail(error);
    if (options.resume) offer_earlier(error, options.run, options.from);
    throw;
  }
}
Trainer::~Trainer() = default;

bool Trainer::run(const std::atomic<bool>& stop) {
  try {
    return state_->run(stop);
  } catch (const base::Error& error) {
    state_->team.fail(error);
    throw;
  }
}

bool Trainer::State::run(const std::atomic<bool>& stop) {
  const int64_t steps = recipe.schedule.steps;
  if (finished()) return true;
  begin(stop);
  if (start) start->done();  // a start that failed, in its first evaluation even, leaves no run behind
  bool stops = team.any(stop);
  while (progress.step < steps && !stops && !out_of_patience()) {
    step();
    const bool last = progress.step == steps;
    if (!last && progress.step % recipe.evaluate_every == 0) evaluate(stop);
    stops = team.any(stop);
    if (last || stops || out_of_patience() || progress.step % recipe.checkpoint_every == 0) write_checkpoint();
  }
  // After the checkpoint: what is lost when it is stopped is made up for when the run is resumed.
  if (progress.step < steps && !out_of_patience()) return false;
  if (progress.step == steps && !evaluate(stop)) return false;
  Json end = at("end");
  if (recipe.patience > 0 && progress.best)
    end.update(Json{{"best_step", progress.best_step},
                    {"best_validation", *progress.best},
                    {"stopped_early", progress.step < steps}});
  tell(end);
  return true;
}

const models::Account& Trainer::account() const { return state_->account; }
const std::vector<std::string>& Trainer::warnings() const { return state_->warnings; }
int64_t Trainer::step() const { return state_->progress.step; }
bool Trainer::finished() const { return state_->finished(); }
bool Trainer::stopped_early() const {
  return state_->out_of_patience() && state_->progress.step < state_->recipe.schedule.steps;
}
fs::path Trainer::result() const {
  if (state_->recipe.patience > 0 && fs::exists(state_->folder.best())) return state_->folder.best();
  const std::vector<int64_t> saved = state_->folder.checkpoints();
  return saved.empty() ? fs::path() : state_->folder.checkpoint(saved.back());
}

}  // namespace coterie::train
