#pragma once

#include <cstdint>
#include <string>

#include "models/spec.h"

namespace coterie::train {

/// Bytes that training takes beside what is mapped from files.
struct MemoryForecast {
  int64_t parameters = 0;   // values, gradients and AdamW's two moments of what is trained, f32
  int64_t activations = 0;  // that are kept for the backward pass, at least

  int64_t total() const { return parameters + activations; }
};

/// The memory of `trained` parameters and of micro-batches of `tokens` tokens through a model of `spec`; with
/// `recompute` only the blocks' inputs are kept. Activations are a lower bound from the widths in the spec: what each
/// block's projections, mixer and FFN read and give. A test compares it with what a run took.
MemoryForecast forecast_memory(const models::ModelSpec& spec, int64_t trained, int64_t tokens, bool recompute);

/// Values, gradients and moments of so many trained parameters.
int64_t parameter_bytes(int64_t trained);

}  // namespace coterie::train
