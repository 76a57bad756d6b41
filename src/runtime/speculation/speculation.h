#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/engine.h"
#include "runtime/speculation/speculator.h"

namespace coterie::runtime {

/// How tokens are drafted, and how many at once.
struct SpeculationOptions {
  enum class Kind { lookup, model, heads } kind = Kind::lookup;
  std::string model;  // of Kind::model: its path
  int64_t most = 8;   // drafted tokens of a step
  // As many are drafted in each step, whether or not it pays: for measurements, and figures that do not depend on time.
  bool always = false;
};
/// "ngram", "mtp" or "draft:MODEL". Throws bad_input, with what there is, for anything else.
SpeculationOptions read_speculation(std::string_view text);

/// Speculation for the texts of one engine: what they share, the costs of its steps and the model, or the model's head
/// for multi-token prediction, that drafts.
class Speculation {
 public:
  /// Opens the model that drafts, if there is one; of `drafts` the threads and the kind of numbers count. Throws as
  /// require_speculable does, bad_input or unsupported for a model with another vocabulary, and what opening it throws.
  Speculation(const SpeculationOptions& options, const Engine& target, const EngineOptions& drafts);

  /// For one more text; this must outlive it.
  std::unique_ptr<Speculator> speculator();
  /// The model that drafts; null: none does.
  const Engine* drafts() const { return drafts_ ? &*drafts_ : nullptr; }
  const StepSeconds& costs() const { return costs_; }

 private:
  SpeculationOptions options_;
  int64_t vocabulary_;
  std::optional<Engine> drafts_;
  StepSeconds costs_;
};

}  // namespace coterie::runtime
