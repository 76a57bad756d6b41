#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "layers/pass.h"
#include "layers/sequence_state.h"
#include "layers/tensor_list.h"
#include "models/spec.h"
#include "ops/context.h"
#include "ops/moe/formed_rows.h"
#include "tensor/view.h"

namespace coterie::models {

using layers::PassOptions;
using layers::SequenceStep;

/// THE forward pass: the same code trains, infers and is traced.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual const ModelSpec& spec() const = 0;
  /// Runs a batch of sequences through all blocks. Returns the logits asked for, one row each, in the order of the
  /// steps: [rows, V], in context.arena until the caller resets it. Refuses ids outside the vocabulary (bad_input).
  /// Nobody may leave a step under a tape, and gradient_weight is for loss().
  virtual tensor::Matrix forward(ops::Context& context, std::span<const SequenceStep> steps,
                                 const PassOptions& options = {}) const = 0;
  /// The same pass up to the final norm, then Σ -log p(target) over all targets of all steps, in f64; the logits are
  /// never held as a whole. Under context.tape it records the backward pass, which starts here: backward may follow at
  /// once. The steps' states must stay as they are until then, with caches of f32; their ids and targets need not.
  virtual double loss(ops::Context& context, std::span<const SequenceStep> steps,
                      const PassOptions& options = {}) const = 0;
  /// What the routed experts `ids` of a layer give for their slots of `plan` (ops::expert_outputs), x [N, the width
  /// experts read], out [slots, that width]: for a rank that computes its experts for others. Throws unsupported for a
  /// decoder of several models, internal for a layer without experts.
  virtual void expert_outputs(ops::Context& context, int64_t layer, const ops::FormedRows& x,
                              const ops::RoutingPlan& plan, std::span<const int32_t> ids, tensor::Matrix out) const;
  /// Shows every weight, bound to its bytes (inspect, save, quantise).
  virtual void read(layers::TensorReader& reader) const = 0;
  /// Walks every weight with a visitor that may point it elsewhere; what layers derive from weights is then made anew.
  virtual void rebind(layers::TensorVisitor& visitor) = 0;
  /// To be called after weights were changed where they lie: what layers derive from them is made anew.
  virtual void weights_changed() = 0;
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
