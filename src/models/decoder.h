#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "layers/sequence_state.h"
#include "layers/tap.h"
#include "layers/tensor_list.h"
#include "models/spec.h"
#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::models {

/// The tokens of one sequence in a step: they are evaluated at positions state->length() …; the caller makes room in
/// the state's cache before and advances the state afterwards.
struct SequenceStep {
  std::span<const int32_t> ids;
  layers::SequenceState* state = nullptr;
  enum class Logits { none, last, all } logits = Logits::last;
  uint64_t random_key = 0;  // of draws a router makes for this sequence (Selection::sample)
  // Positions the prompt that these tokens are a piece of will reach; 0 = these tokens end it. Only dynamic RoPE
  // scaling looks at it: with it a prompt cut in pieces gives the bits of the whole.
  int64_t length = 0;
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
  /// steps: [rows, V], in context.arena until the caller resets it. Refuses ids outside the vocabulary (bad_input).
  virtual tensor::Matrix forward(ops::Context& context, std::span<const SequenceStep> steps,
                                 const StepOptions& options = {}) const = 0;
  /// Walks every weight, bound to its bytes (inspect, save, quantise). The visitor must not change the slots.
  virtual void visit(layers::TensorVisitor& visitor) const = 0;
  /// Whether keys that were cached when a sequence had `before` positions are what one pass over `after` positions
  /// would compute. False for dynamic RoPE scaling past the original context, where the reference, too, gives one
  /// result with its cache and another without; and for LongRoPE when only one of the two is past it (starts_anew).
  virtual bool cache_holds(int64_t before, int64_t after) const = 0;
};

/// Whether positions past the model's context are defined for it: its rotary embedding is rescaled to each length
/// (dynamic).
bool grows_with_length(const Decoder& decoder);

/// Whether a sequence that grows from `before` positions to `after` is to be evaluated anew: LongRoPE at its original
/// context, once, as transformers' generate does.
bool starts_anew(const Decoder& decoder, int64_t before, int64_t after);

}  // namespace coterie::models
