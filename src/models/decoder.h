#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "layers/sequence_state.h"
#include "layers/tap.h"
#include "models/account.h"
#include "models/spec.h"
#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::models {

/// The tokens of one sequence in a step: they are evaluated at positions state->length() …; the caller advances the
/// state afterwards.
struct SequenceStep {
  std::span<const int32_t> ids;
  layers::SequenceState* state = nullptr;
  enum class Logits { none, last, all } logits = Logits::last;
  uint64_t random_key = 0;  // of draws a router makes for this sequence (Selection::sample)
};

struct StepOptions {
  layers::Tap* tap = nullptr;
};

/// THE forward pass: the same code trains, infers, is traced and is distributed.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual const ModelSpec& spec() const = 0;
  /// Runs a batch of sequences through all blocks. Returns the logits asked for, one row each, in the order of the
  /// steps: [rows, V], in context.arena until the caller resets it.
  virtual tensor::Matrix forward(ops::Context& context, std::span<const SequenceStep> steps,
                                 const StepOptions& options = {}) const = 0;
  /// What the bound weights weigh, as they lie in the files. (Asked for by runtime: bench, inspect.)
  virtual WeightBytes weight_bytes() const = 0;
};

}  // namespace coterie::models
