#include "runtime/engines.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "models/gated_decoder.h"

namespace coterie::runtime {

using models::Gate;

Engines::Engines(models::Model model, const EngineOptions& options) : name_(model.name) {
  engines_.push_back(std::make_unique<Engine>(std::move(model), options));
}

Engines::Engines(const std::filesystem::path& folder, const models::OpenOptions& open, const EngineOptions& options)
    : name_(models::gate_name(folder)), gate_(models::read_gate(folder)) {
  const auto count = static_cast<size_t>(gate_->count());
  report_ = std::make_unique<GateReport>();
  report_->kind = gate_->kind;
  report_->weights.resize(count), report_->answered.resize(count);
  if (chooses() && gate_->top_k == 1) {
    std::vector<models::Model> models = open_models(*gate_, folder, open);
    report_->models = models::names_of(*gate_, models);
    for (models::Model& model : models) engines_.push_back(std::make_unique<Engine>(std::move(model), options));
    return;
  }
  models::GatedModel gated = open_gated(*gate_, folder, open);
  together_ = gated.decoder;
  report_->models = models::names_of(*gate_, together_->models());
  if (chooses()) {
    const std::filesystem::path& reader = gate_->models[static_cast<size_t>(gate_->reader)];
    reader_ = std::make_unique<Engine>(models::open_model((folder / reader).lexically_normal(), open), options);
  } else {
    together_->listen([log = report_.get()](tensor::ConstMatrix weights) {
      for (int64_t r = 0; r < weights.rows; ++r) {
        const float* row = weights.row(r);
        for (size_t i = 0; i < log->weights.size(); ++i) log->weights[i] += static_cast<double>(row[i]);
        ++log->answered[static_cast<size_t>(std::max_element(row, row + weights.cols) - row)];
      }
      log->positions += weights.rows;
    });
  }
  engines_.push_back(std::make_unique<Engine>(std::move(gated.model), options));
}

Engines::Engines(Engines&&) noexcept = default;
Engines::~Engines() = default;

int64_t Engines::context_size() const {
  int64_t least = reader_ ? reader_->context_size() : engines_.front()->context_size();
  for (const std::unique_ptr<Engine>& engine : engines_) least = std::min(least, engine->context_size());
  return least;
}

std::vector<double> Engines::read(std::span<const text::TokenId> prompt) {
  Engine& engine = reader_ ? *reader_ : *engines_[static_cast<size_t>(gate_->reader)];
  if (prompt.empty()) base::fail(base::ErrorKind::bad_input, "prompt", "has no tokens for the gate to read");
  const int64_t length = std::ssize(prompt);
  if (length > engine.context_size())
    base::fail(base::ErrorKind::bad_input, "prompt", "has {} tokens, the model that reads for the gate a context of {}",
               length, engine.context_size());
  // What begins every text says nothing about it.
  const int64_t skipped = length > 1 && engine.tokenizer().bos() == prompt.front() ? 1 : 0;
  std::vector<double> mean(static_cast<size_t>(engine.spec().width));
  KvCache cache = engine.make_cache();
  models::GateReader reader(std::ssize(engine.spec().blocks), [&](int64_t row, std::span<const double> x) {
    if (cache.length() + row < skipped) return;
    for (size_t d = 0; d < x.size(); ++d) mean[d] += x[d] / static_cast<double>(length - skipped);
  });
  while (cache.length() < length) {
    const auto rest = prompt.subspan(static_cast<size_t>(cache.length()));
    const Evaluation evaluation{rest.first(std::min(rest.size(), static_cast<size_t>(engine.step_tokens()))), &cache,
                                models::SequenceStep::Logits::none, 0, length};
    engine.evaluate({&evaluation, 1}, &reader);
  }
  return mean;
}

Engine& Engines::choose(std::span<const text::TokenId> prompt) {
  if (!chooses()) return *engines_.front();
  const std::vector<double> state = read(prompt), weights = gate_weights(*gate_, state);
  report_->weights = gate_weights(*gate_, state, true);
  for (size_t i = 0; i < weights.size(); ++i) report_->answered[i] += weights[i] > 0;
  ++report_->positions;
  if (together_) {
    together_->fix(weights);
    return *engines_.front();
  }
  return *engines_[static_cast<size_t>(std::max_element(weights.begin(), weights.end()) - weights.begin())];
}

Engine& Engines::choose(std::string_view text) {
  return chooses() ? choose(front().tokenizer().encode(text, true)) : front();
}

std::optional<GateReport> Engines::report() const {
  if (!gate_) return {};
  GateReport report = *report_;
  if (!chooses() && report.positions > 0)
    for (double& weight : report.weights) weight /= static_cast<double>(report.positions);
  return report;
}

}  // namespace coterie::runtime
