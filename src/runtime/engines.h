#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "families/ensemble/gate.h"
#include "runtime/engine.h"
#include "text/tokenizer.h"

namespace coterie::families {
class EnsembleDecoder;
}

namespace coterie::runtime {

/// What a gate has decided so far.
struct GateReport {
  families::Gate::Kind kind;
  std::vector<std::string> models;  // their names
  // prompt: of the last prompt, before all but top_k were left out. Otherwise: the mean over `positions`.
  std::vector<double> weights;
  std::vector<int64_t> answered;  // prompts that each model answered, or took part in; positions where it weighed most
  int64_t positions = 0;
};

/// What answers a prompt: the engine of one model, or of one or all of the models of an ensemble
/// (families/ensemble/gate.h). A prompt gate that lets one model answer has an engine for each; otherwise the models
/// run together, as one.
class Engines {
 public:
  Engines(families::Model model, const EngineOptions& options);
  /// The gate in `folder` and its models. Models with an engine each share EngineOptions::cache_bytes and memory.
  /// Throws as read_gate, open_model and Engine do.
  Engines(const std::filesystem::path& folder, const families::OpenOptions& open, const EngineOptions& options);
  Engines(Engines&&) noexcept;
  ~Engines();

  /// The engine that answers `prompt`: the reader reads it where a prompt gate has to choose. Throws bad_input for a
  /// prompt without tokens, or longer than the reader's context. Where several models answer together, their weights
  /// for this prompt go into `weights` ([N]; empty where no prompt decides them), for GenerationOptions::model_weights;
  /// without it they hold for every sequence until the next choice.
  Engine& choose(std::span<const text::TokenId> prompt, std::vector<double>* weights = nullptr);
  /// The same for a text, which is not looked at where there is nothing to choose.
  Engine& choose(std::string_view text, std::vector<double>* weights = nullptr);
  /// Any of them: all have the same tokenizer.
  Engine& front() { return *engines_.front(); }
  /// Tokens that a text may have, whichever model has to read it: the least of all contexts.
  int64_t context_size() const;
  std::span<const std::unique_ptr<Engine>> all() const { return engines_; }
  /// The models, those behind a gate one by one.
  std::vector<const families::Model*> models() const;
  const std::string& name() const { return name_; }

  /// The chat template that `answers`, one of these engines, is prompted with (families::template_of); null for none.
  const text::ChatTemplate* chat_template(const Engine& answers) const;
  /// Whose layers [first, end) of an engine are. One part for a model alone; `model` is empty where there is no gate.
  struct Part {
    std::string model;
    int64_t first = 0, end = 0;
  };
  std::vector<Part> parts(const Engine& engine) const;

  /// Nothing for a model without a gate.
  std::optional<GateReport> report() const;

 private:
  std::vector<double> read(std::span<const text::TokenId> prompt);
  bool chooses() const { return gate_ && gate_->kind == families::Gate::Kind::prompt; }

  std::string name_;
  std::optional<families::Gate> gate_;
  std::vector<std::unique_ptr<Engine>> engines_;
  families::EnsembleDecoder* together_ = nullptr;  // of the one engine, where the models run as one
  std::unique_ptr<GateReport> report_;             // stays where it is: it is written to while a step runs
};

}  // namespace coterie::runtime
