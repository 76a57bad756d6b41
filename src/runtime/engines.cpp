#include "runtime/engines.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "families/ensemble/ensemble_decoder.h"
#include "families/ensemble/ensemble_model.h"

namespace coterie::runtime {

using families::Gate;

Engines::Engines(families::Model model, const EngineOptions& options) : name_(model.name) {
  engines_.push_back(std::make_unique<Engine>(std::move(model), options));
}

Engines::Engines(const std::filesystem::path& folder, const families::OpenOptions& open, const EngineOptions& options)
    : name_(families::gate_name(folder)), gate_(families::read_gate(folder)) {
  const auto count = static_cast<size_t>(gate_->count());
  report_ = std::make_unique<GateReport>();
  report_->kind = gate_->kind;
  report_->weights.resize(count), report_->answered.resize(count);
  if (chooses() && gate_->top_k == 1) {
    std::vector<families::Model> models = open_models(*gate_, folder, open);
    report_->models = families::names_of(*gate_, models);
    EngineOptions each = options;
    if (each.cache_bytes > 0) each.cache_bytes = std::max<int64_t>(each.cache_bytes / std::ssize(models), 1);
    // A budget is divided by what the models weigh; what the process holds without them counts for each.
    const int64_t before = base::resident_memory();
    double all = 0;
    for (const families::Model& model : models) all += static_cast<double>(model.source->file_bytes());
    for (families::Model& model : models) {
      const double share = static_cast<double>(model.source->file_bytes()) / std::max(all, 1.0);
      if (options.memory > before)
        each.memory =
            base::resident_memory() + static_cast<int64_t>(share * static_cast<double>(options.memory - before));
      engines_.push_back(std::make_unique<Engine>(std::move(model), each));
    }
    return;
  }
  families::EnsembleModel gated = open_ensemble(*gate_, folder, open);
  together_ = gated.decoder;
  report_->models = families::names_of(*gate_, together_->models());
  if (!chooses())
    together_->listen([log = report_.get()](tensor::ConstMatrix weights) {
      for (int64_t r = 0; r < weights.rows; ++r) {
        const float* row = weights.row(r);
        for (size_t i = 0; i < log->weights.size(); ++i) log->weights[i] += static_cast<double>(row[i]);
        ++log->answered[static_cast<size_t>(std::max_element(row, row + weights.cols) - row)];
      }
      log->positions += weights.rows;
    });
  engines_.push_back(std::make_unique<Engine>(std::move(gated.model), options));
}

Engines::Engines(Engines&&) noexcept = default;
Engines::~Engines() = default;

std::vector<const families::Model*> Engines::models() const {
  std::vector<const families::Model*> models;
  if (together_)
    for (const families::Model& model : together_->models()) models.push_back(&model);
  else
    for (const std::unique_ptr<Engine>& engine : engines_) models.push_back(&engine->model());
  return models;
}

int64_t Engines::context_size() const {
  int64_t least = engines_.front()->context_size();
  for (const std::unique_ptr<Engine>& engine : engines_) least = std::min(least, engine->context_size());
  return least;
}

namespace {

/// While it lives, the reader alone reads.
class ReadsAlone {
 public:
  explicit ReadsAlone(families::EnsembleDecoder* decoder) : decoder_(decoder) {
    if (decoder_) decoder_->read_alone(true);
  }
  ~ReadsAlone() {
    if (decoder_) decoder_->read_alone(false);
  }
  ReadsAlone(const ReadsAlone&) = delete;
  ReadsAlone& operator=(const ReadsAlone&) = delete;

 private:
  families::EnsembleDecoder* decoder_;
};

}  // namespace

std::vector<double> Engines::read(std::span<const text::TokenId> prompt) {
  Engine& engine = *engines_[together_ ? 0 : static_cast<size_t>(gate_->reader)];
  if (prompt.empty()) base::fail(base::ErrorKind::bad_input, "prompt", "has no tokens for the gate to read");
  const int64_t length = std::ssize(prompt);
  if (length > engine.context_size())
    base::fail(base::ErrorKind::bad_input, "prompt", "has {} tokens, the model that reads for the gate a context of {}",
               length, engine.context_size());
  // What begins every text says nothing about it.
  const int64_t skipped = length > 1 && engine.tokenizer().bos() == prompt.front() ? 1 : 0;
  const models::ModelSpec& spec =
      together_ ? together_->models()[static_cast<size_t>(gate_->reader)].decoder->spec() : engine.spec();
  const int64_t first = together_ ? together_->first_layer(gate_->reader) : 0;
  std::vector<double> mean(static_cast<size_t>(spec.width));
  KvCache cache = engine.make_cache();
  const ReadsAlone alone(together_);
  families::GateReader reader(first + std::ssize(spec.blocks), [&](int64_t row, std::span<const double> x) {
    if (cache.length() + row < skipped) return;
    for (size_t d = 0; d < x.size(); ++d) mean[d] += x[d] / static_cast<double>(length - skipped);
  });
  while (cache.length() < length) {
    const auto rest = prompt.subspan(static_cast<size_t>(cache.length()));
    const models::SequenceStep step{.ids = rest.first(std::min(rest.size(), static_cast<size_t>(engine.step_tokens()))),
                                    .state = &cache,
                                    .logits = models::SequenceStep::Logits::none,
                                    .length = length};
    engine.evaluate({&step, 1}, {.observer = &reader});
  }
  return mean;
}

Engine& Engines::choose(std::span<const text::TokenId> prompt, std::vector<double>* model_weights) {
  if (model_weights) model_weights->clear();
  if (!chooses()) return *engines_.front();
  const std::vector<double> state = read(prompt), weights = gate_weights(*gate_, state);
  report_->weights = gate_weights(*gate_, state, true);
  for (size_t i = 0; i < weights.size(); ++i) report_->answered[i] += weights[i] > 0;
  ++report_->positions;
  if (together_) {
    model_weights ? void(*model_weights = weights) : together_->fix(weights);
    return *engines_.front();
  }
  return *engines_[static_cast<size_t>(std::max_element(weights.begin(), weights.end()) - weights.begin())];
}

Engine& Engines::choose(std::string_view text, std::vector<double>* model_weights) {
  return chooses() ? choose(front().tokenizer().encode(text, true), model_weights)
                   : choose(std::span<const text::TokenId>(), model_weights);
}

const text::ChatTemplate* Engines::chat_template(const Engine& answers) const {
  std::vector<const families::Model*> all;
  for (const std::unique_ptr<Engine>& engine : engines_) all.push_back(&engine->model());
  return families::template_of(answers.model(), all);
}

std::vector<Engines::Part> Engines::parts(const Engine& engine) const {
  const int64_t layers = std::ssize(engine.spec().blocks);
  if (!gate_) return {{"", 0, layers}};
  std::vector<Part> parts;
  for (size_t i = 0; i < report_->models.size(); ++i) {
    if (!together_ && engines_[i].get() != &engine) continue;
    const int64_t first = together_ ? together_->first_layer(static_cast<int64_t>(i)) : 0;
    if (together_ && !parts.empty()) parts.back().end = first;
    parts.push_back({report_->models[i], first, layers});
  }
  return parts;
}

std::optional<GateReport> Engines::report() const {
  if (!gate_) return {};
  GateReport report = *report_;
  if (!chooses() && report.positions > 0)
    for (double& weight : report.weights) weight /= static_cast<double>(report.positions);
  return report;
}

}  // namespace coterie::runtime
