#pragma once

#include <cstdint>
#include <optional>

#include "layers/batch.h"
#include "layers/specs.h"
#include "ops/elementwise.h"

namespace coterie::layers {

/// The frequencies (radians a position) and magnitude of a rotary embedding, with its scaling, for a sequence of
/// `length` positions. Formulas as in transformers' modeling_rope_utils (linear, dynamic NTK, llama3, YaRN, LongRoPE),
/// computed in f32 where it computes in f32. Only `dynamic` and `longrope` depend on the length.
ops::RopeTable rope_table(const RopeSpec& spec, int64_t length = 0);

/// Turns queries and keys by their positions.
///
/// Dynamic NTK scaling grows the base with the length of the sequence once that exceeds the original context. As in
/// transformers, one pass over T tokens rotates all of them by the frequencies of T, and a key that is already in the
/// cache keeps the frequencies it was written with. So for such a model, and past its original context only, decode
/// differs from prefill; frequencies_change() says when, for callers that would rather evaluate the prompt anew.
///
/// LongRoPE has two sets of frequencies: one for sequences up to the original context, one for longer ones. A sequence
/// that grows past it is to be evaluated anew, once, as transformers' generate does; runtime::Generation does so.
class Rope {
 public:
  explicit Rope(const RopeSpec& spec);

  /// x [N, heads * head_dim], in place.
  void forward(const Batch& batch, int64_t heads, tensor::Matrix x) const;

  /// Whether keys written when the sequence had `before` positions are rotated otherwise than at length `after`.
  static bool frequencies_change(const RopeSpec& spec, int64_t before, int64_t after);

 private:
  RopeSpec spec_;
  ops::RopeTable table_;                      // at the original length
  std::optional<ops::RopeTable> long_table_;  // longrope, past it
};

}  // namespace coterie::layers
