#include "families/ensemble/ensemble_decoder.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "base/error.h"
#include "layers/moe/router_hook.h"

namespace coterie::families {

namespace {

using base::ErrorKind;
using tensor::Matrix;

constexpr int64_t kPiece = 8192;  // columns of a task

/// One model's layers of a sequence that has those of all.
class Part final : public layers::SequenceState {
 public:
  Part(layers::SequenceState& whole, int64_t first) : whole_(whole), first_(first) {}
  int64_t length() const override { return whole_.length(); }
  tensor::DType cache_dtype() const override { return whole_.cache_dtype(); }
  std::span<std::byte* const> blocks(int64_t layer) override { return whole_.blocks(first_ + layer); }
  std::span<float> recurrent(int64_t layer) override { return whole_.recurrent(first_ + layer); }
  void make_room(int64_t rows) override { whole_.make_room(rows); }
  void advance(int64_t rows) override { whole_.advance(rows); }
  void abandon() override { whole_.abandon(); }
  layers::SequenceState& whole() const { return whole_; }

 private:
  layers::SequenceState& whole_;
  int64_t first_;
};

/// Somebody who observes the layers of all models, as one of them shows its own.
class PartObserver final : public layers::Observer {
 public:
  PartObserver(layers::Observer& whole, int64_t first) : whole_(whole), first_(first) {}
  void routed(const layers::Routed& r) override { whole_.routed(moved(r)); }
  void mixer_routed(const layers::Routed& r) override { whole_.mixer_routed(moved(r)); }
  void mixed(const layers::Mixture& m) override {
    whole_.mixed(
        {.layer = first_ + m.layer, .experts = m.experts, .logits = m.logits, .sequences = whole_ones(m.sequences)});
  }
  void ffn_input(int64_t layer, tensor::ConstMatrix x) override { whole_.ffn_input(first_ + layer, x); }
  void mixer_output(int64_t layer, tensor::ConstMatrix y) override { whole_.mixer_output(first_ + layer, y); }
  void ffn_output(int64_t layer, tensor::ConstMatrix y) override { whole_.ffn_output(first_ + layer, y); }
  void block(int64_t layer, tensor::ConstMatrix x) override { whole_.block(first_ + layer, x); }
  bool wants_products() const override { return whole_.wants_products(); }
  void product(const layers::Product& p) override {
    whole_.product({.layer = p.layer < 0 ? p.layer : first_ + p.layer, .weight = p.weight, .x = p.x, .rows = p.rows});
  }
  bool wants_expert_outputs() const override { return whole_.wants_expert_outputs(); }
  void expert_outputs(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix out) override {
    whole_.expert_outputs(first_ + layer, plan, out);
  }

 private:
  layers::Routed moved(const layers::Routed& r) {
    return {.layer = first_ + r.layer,
            .plan = r.plan,
            .logits = r.logits,
            .chosen = r.chosen,
            .sequences = whole_ones(r.sequences),
            .noise = r.noise,
            .noisy = r.noisy,
            .input = r.input};
  }

  /// The same rows with the states that the ensemble was given, by which observers know whose they are.
  std::span<const layers::SequenceRows> whole_ones(std::span<const layers::SequenceRows> sequences) {
    sequences_.assign(sequences.begin(), sequences.end());
    for (layers::SequenceRows& rows : sequences_) rows.step.state = &static_cast<Part*>(rows.step.state)->whole();
    return sequences_;
  }

  layers::Observer& whole_;
  int64_t first_;
  std::vector<layers::SequenceRows> sequences_;
};

/// A source of experts that numbers the layers of all models.
class PartExperts final : public layers::ExpertSource {
 public:
  PartExperts(layers::ExpertSource& whole, int64_t first) : whole_(whole), first_(first) {}
  std::unique_ptr<layers::ExpertLease> lease(const layers::ExpertCall& call) override {
    return whole_.lease(
        {.layer = first_ + call.layer, .plan = call.plan, .x = call.x, .inputs = call.inputs, .outputs = call.outputs});
  }

 private:
  layers::ExpertSource& whole_;
  int64_t first_;
};

/// A sequence's hook, which numbers the layers of all models.
class PartHook final : public layers::RouterHook {
 public:
  PartHook(const layers::RouterHook& whole, int64_t first) : whole_(whole), first_(first) {}
  const layers::RouterSpec* rule(int64_t layer) const override { return whole_.rule(first_ + layer); }
  void logits(int64_t layer, int64_t position, Matrix logits) const override {
    whole_.logits(first_ + layer, position, logits);
  }
  void choices(int64_t layer, int64_t position, int64_t rows, std::span<int32_t> ids,
               std::span<float> weights) const override {
    whole_.choices(first_ + layer, position, rows, ids, weights);
  }

 private:
  const layers::RouterHook& whole_;
  int64_t first_;
};

/// Adds up the mixture, model by model.
class Sum {
 public:
  Sum(threads::Pool& pool, Matrix out, Matrix weights)
      : pool_(pool), out_(out), weights_(weights), level_(static_cast<size_t>(out.rows)), begun_(level_.size()) {}

  void add(int64_t model, tensor::ConstMatrix logits) {
    const std::vector<double> totals = log_sums(logits);
    each_piece([&](int64_t r, int64_t begin, int64_t end) {
      const auto weight = static_cast<double>(weights_.row(r)[model]);
      if (weight == 0) return;
      const float* x = logits.row(r);
      float* out = out_.row(r);
      if (alone(r, model)) {
        std::copy(x + begin, x + end, out + begin);
        return;
      }
      const double shift = std::log(weight) - totals[static_cast<size_t>(r)];
      for (int64_t v = begin; v < end; ++v) {
        const auto term = static_cast<float>(static_cast<double>(x[v]) + shift);
        if (!begun_[static_cast<size_t>(r)]) {
          out[v] = term;
        } else {
          const float high = std::max(out[v], term), low = std::min(out[v], term);
          out[v] = high == -INFINITY ? high : high + std::log1p(std::exp(low - high));
        }
      }
    });
    for (size_t r = 0; r < level_.size(); ++r) {
      const auto row = static_cast<int64_t>(r);
      const auto weight = static_cast<double>(weights_.row(row)[model]);
      if (weight > 0 && !alone(row, model)) level_[r] += weight * totals[r], begun_[r] = 1;
    }
  }

  void finish() {
    each_piece([&](int64_t r, int64_t begin, int64_t end) {
      if (begun_[static_cast<size_t>(r)])
        for (int64_t v = begin; v < end; ++v)
          out_.row(r)[v] = static_cast<float>(static_cast<double>(out_.row(r)[v]) + level_[static_cast<size_t>(r)]);
    });
  }

 private:
  template <typename F>
  void each_piece(F body) {
    const int64_t pieces = (out_.cols + kPiece - 1) / kPiece;
    pool_.each(out_.rows * pieces, [&](int64_t task, int) {
      const int64_t begin = task % pieces * kPiece;
      body(task / pieces, begin, std::min(begin + kPiece, out_.cols));
    });
  }

  /// Whether no other model counts. A weight of 1 does not say it: in f32 it may stand beside 1e-9.
  bool alone(int64_t row, int64_t model) const {
    const float* weights = weights_.row(row);
    for (int64_t i = 0; i < weights_.cols; ++i)
      if (i != model && weights[i] != 0) return false;
    return true;
  }

  /// log Σ exp of each row, in f64, over the columns that all models have.
  std::vector<double> log_sums(tensor::ConstMatrix logits) {
    const int64_t pieces = (out_.cols + kPiece - 1) / kPiece;
    std::vector<double> tops(static_cast<size_t>(out_.rows * pieces)), sums(tops.size());
    each_piece([&](int64_t r, int64_t begin, int64_t end) {
      const float* x = logits.row(r);
      const auto at = static_cast<size_t>(r * pieces + begin / kPiece);
      tops[at] = static_cast<double>(*std::max_element(x + begin, x + end));
      for (int64_t v = begin; v < end; ++v) sums[at] += std::exp(static_cast<double>(x[v]) - tops[at]);
    });
    std::vector<double> totals;
    for (int64_t r = 0; r < out_.rows; ++r) {
      const auto first = tops.begin() + r * pieces;
      const double top = *std::max_element(first, first + pieces);
      double sum = 0;
      for (int64_t p = 0; p < pieces; ++p) {
        const auto at = static_cast<size_t>(r * pieces + p);
        sum += sums[at] * std::exp(tops[at] - top);
      }
      totals.push_back(top + std::log(sum));
    }
    return totals;
  }

  threads::Pool& pool_;
  Matrix out_, weights_;
  std::vector<double> level_;  // Σ g_i log Σ exp(logits_i) of each row
  std::vector<char> begun_;
};

bool asks_logits(const models::SequenceStep& step, size_t id) {
  return step.logits == models::SequenceStep::Logits::all ||
         (step.logits == models::SequenceStep::Logits::last && id + 1 == step.ids.size());
}

/// Which rows of a batch ask for logits.
struct Asked {
  std::vector<int64_t> of;  // each row of the batch: its row of the logits, or -1
  int64_t rows = 0;         // of logits

  explicit Asked(std::span<const models::SequenceStep> steps) {
    for (const models::SequenceStep& step : steps)
      for (size_t id = 0; id < step.ids.size(); ++id) of.push_back(asks_logits(step, id) ? rows++ : -1);
  }
};

void set_weights(Matrix weights, int64_t row, std::span<const double> of) {
  std::transform(of.begin(), of.end(), weights.row(row), [](double w) { return static_cast<float>(w); });
}

/// What the layers of all models together need, and what all of them can do.
models::ModelSpec joint_spec(std::span<const Model> models) {
  models::ModelSpec spec = models.front().decoder->spec();
  spec.family = {.model_type = "gate", .architecture = ""};
  for (const Model& model : models.subspan(1)) {
    const models::ModelSpec& other = model.decoder->spec();
    spec.vocabulary = std::min(spec.vocabulary, other.vocabulary);
    spec.context = std::min(spec.context, other.context);
    spec.width = std::max(spec.width, other.width);
    const auto shared = std::ssize(spec.shared);
    spec.shared.insert(spec.shared.end(), other.shared.begin(), other.shared.end());
    for (models::BlockSpec block : other.blocks) {
      if (block.shared) block.shared->block += shared;
      spec.blocks.push_back(std::move(block));
    }
  }
  return spec;
}

}  // namespace

EnsembleDecoder::EnsembleDecoder(std::vector<Model> models, Gate gate)
    : models_(std::move(models)), gate_(std::move(gate)), spec_(joint_spec(models_)) {
  base::require(std::ssize(models_) == gate_.count(), "gate", "{} models for {}", models_.size(), gate_.count());
  int64_t layers = 0;
  for (const Model& model : models_) {
    first_layer_.push_back(layers);
    layers += std::ssize(model.decoder->spec().blocks);
  }
  const Model& reader = models_[static_cast<size_t>(gate_.reader)];
  for (const std::vector<float>& row : gate_.rows)
    if (std::ssize(row) != reader.decoder->spec().width)
      base::fail(ErrorKind::bad_input, reader.name, "is {} wide, the gate reads states of {}",
                 reader.decoder->spec().width, row.size());
}

void EnsembleDecoder::fix(std::vector<double> weights) {
  base::require(std::ssize(weights) == gate_.count(), "gate", "{} weights for {} models", weights.size(),
                gate_.count());
  fixed_ = std::move(weights);
}

std::shared_ptr<const EnsembleDecoder::OnWeights> EnsembleDecoder::listen_while(OnWeights on_weights) {
  std::erase_if(listeners_, [](const std::weak_ptr<const OnWeights>& each) { return each.expired(); });
  auto listener = std::make_shared<const OnWeights>(std::move(on_weights));
  listeners_.push_back(listener);
  return listener;
}

std::vector<char> EnsembleDecoder::known_weights(std::span<const models::SequenceStep> steps, Matrix weights) const {
  std::vector<char> by_gate;
  const bool gated = fixed_.empty() && gate_.reads();
  const std::vector<double> same = gated ? std::vector<double>() : fixed_.empty() ? gate_weights(gate_, {}) : fixed_;
  for (const models::SequenceStep& step : steps) {
    base::require(step.model_weights.empty() || std::ssize(step.model_weights) == gate_.count(), "gate",
                  "{} weights for {} models", step.model_weights.size(), gate_.count());
    const std::span<const double> own = step.model_weights.empty() ? std::span<const double>(same) : step.model_weights;
    for (size_t id = 0; id < step.ids.size(); ++id) {
      if (!asks_logits(step, id)) continue;
      if (!own.empty()) set_weights(weights, std::ssize(by_gate), own);
      by_gate.push_back(own.empty());
    }
  }
  return by_gate;
}

Matrix EnsembleDecoder::forward_one(ops::Context& context, int64_t i, std::span<const models::SequenceStep> steps,
                                    const models::PassOptions& options, layers::Observer* reader) const {
  const int64_t first = first_layer_[static_cast<size_t>(i)];
  std::vector<Part> states;
  states.reserve(steps.size());
  std::vector<PartHook> hooks;
  hooks.reserve(steps.size());
  std::vector<models::SequenceStep> parts(steps.begin(), steps.end());
  for (models::SequenceStep& step : parts) {
    base::require(step.state != nullptr, "gate", "a step without a state");
    step.state = &states.emplace_back(*step.state, first);
    step.leaves = nullptr;
    if (step.routers) step.routers = &hooks.emplace_back(*step.routers, first);
  }
  std::optional<PartObserver> part;
  if (options.observer) part.emplace(*options.observer, first);
  layers::Observers observers{part ? &*part : nullptr, reader};
  std::optional<PartExperts> experts;
  if (options.experts) experts.emplace(*options.experts, first);
  return models_[static_cast<size_t>(i)].decoder->forward(
      context, parts, {.observer = observers.get(), .experts = experts ? &*experts : nullptr});
}

Matrix EnsembleDecoder::forward(ops::Context& context, std::span<const models::SequenceStep> steps,
                                const models::PassOptions& options) const {
  base::require(!context.tape && !options.training, "gate", "the models of an ensemble cannot be trained together");
  if (options.hidden)
    throw base::Error(ErrorKind::unsupported, "gate", "the models of an ensemble have no hidden state in common",
                      "ask one of them");
  const Asked asked(steps);
  base::require(!reads_alone_ || asked.rows == 0, "gate", "{} rows of logits of the reader alone", asked.rows);
  const Matrix out = context.arena.matrix(asked.rows, spec_.vocabulary);
  const tensor::ArenaScope scope(context.arena);
  const Matrix weights = context.arena.matrix(asked.rows, gate_.count());
  const std::vector<char> by_gate = known_weights(steps, weights);
  const bool reading = std::find(by_gate.begin(), by_gate.end(), 1) != by_gate.end();
  GateReader reader(std::ssize(models_[static_cast<size_t>(gate_.reader)].decoder->spec().blocks),
                    [&](int64_t row, std::span<const double> x) {
                      const int64_t logits = asked.of[static_cast<size_t>(row)];
                      if (logits >= 0 && by_gate[static_cast<size_t>(logits)])
                        set_weights(weights, logits, gate_weights(gate_, x));
                    });

  Sum sum(context.pool, out, weights);
  // The reader first: what it reads weighs the others.
  std::vector<int64_t> order = {gate_.reader};
  for (int64_t i = 0; i < gate_.count(); ++i)
    if (i != gate_.reader && !reads_alone_) order.push_back(i);
  for (const int64_t i : order) {
    const int64_t first = first_layer_[static_cast<size_t>(i)];
    // Rows keep their places, since the gate weighs them by number: the step ends early when all have left.
    if (std::all_of(steps.begin(), steps.end(),
                    [&](const models::SequenceStep& step) { return step.leaves && (*step.leaves)(first); }))
      break;
    const tensor::ArenaScope of_model(context.arena);
    const Matrix logits = forward_one(context, i, steps, options, reading && i == gate_.reader ? &reader : nullptr);
    if (asked.rows > 0) sum.add(i, logits);
  }
  sum.finish();
  if (options.observer) options.observer->logits(out);
  if (asked.rows > 0)
    for (const std::weak_ptr<const OnWeights>& each : listeners_)
      if (const auto on_weights = each.lock()) (*on_weights)(weights);
  return out;
}

double EnsembleDecoder::loss(ops::Context&, std::span<const models::SequenceStep>, const models::PassOptions&) const {
  throw base::Error(ErrorKind::unsupported, "gate", "the models of an ensemble cannot be trained together",
                    "train them one by one, then fit the gate anew");
}

void EnsembleDecoder::read(layers::TensorReader& reader) const {
  for (const Model& model : models_) model.decoder->read(reader);
}

void EnsembleDecoder::rebind(layers::TensorVisitor& visitor) {
  for (const Model& model : models_) model.decoder->rebind(visitor);
}

void EnsembleDecoder::weights_changed() {
  for (const Model& model : models_) model.decoder->weights_changed();
}

bool EnsembleDecoder::cache_holds(int64_t before, int64_t after) const {
  return std::all_of(models_.begin(), models_.end(),
                     [&](const Model& model) { return model.decoder->cache_holds(before, after); });
}

}  // namespace coterie::families
