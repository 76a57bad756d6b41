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
  // For Decoder::loss, one for each id: the id that is to be predicted after it, -1 where nothing is scored.
  std::span<const int32_t> targets = {};
};

struct StepOptions {
  layers::Tap* tap = nullptr;
};

struct LossOptions {
  layers::Tap* tap = nullptr;
  // Under a tape: what the sum of the rows' losses is multiplied by before its gradient is taken (1 / the number of
  // targets of the whole batch for their mean), and a loss of the routers' whose gradient is added.
  double gradient_weight = 1;
  const layers::RouterLoss* router_loss = nullptr;
  // The share of what each mixer and FFN gives that is dropped before it is added to the residual stream, keyed by
  // SequenceStep::random_key, position and layer.
  float dropout = 0;
  // The same of the values inside each routed expert (ops/experts.h).
  float expert_dropout = 0;
  // Routers draw their noise and jitter, keyed likewise, and keep to their capacity.
  bool training = false;
  // Under a tape: keep what goes into each block alone, and run the block once more on the way back.
  bool recompute = false;
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
  /// The same pass up to the final norm, then Σ -log p(target) over all targets of all steps, in f64; the logits are
  /// never held as a whole. Under context.tape it records the way back, which starts here: backward may follow at once.
  /// The steps' states must stay as they are until then, with caches of f32; their ids and targets need not.
  virtual double loss(ops::Context& context, std::span<const SequenceStep> steps,
                      const LossOptions& options = {}) const = 0;
  /// Walks every weight, bound to its bytes (inspect, save, quantise). The visitor must not change the slots.
  virtual void visit(layers::TensorVisitor& visitor) const = 0;
  /// Walks every weight with a visitor that may point it elsewhere; what layers derive from weights is then made anew.
  /// After weights were changed in place, a visitor that does nothing serves for that.
  virtual void rebind(layers::TensorVisitor& visitor) = 0;
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
