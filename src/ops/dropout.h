#pragma once

#include <cstdint>
#include <span>

#include "ops/context.h"
#include "tensor/view.h"

namespace coterie::ops {

/// Whose row it is: a draw depends on the sample, the position in it and the place in the model alone, so it is the
/// same however samples are batched, cut into micro-batches or computed again.
struct DropoutRow {
  uint64_t sample = 0;
  int64_t position = 0;
};

/// x *= mask / (1 - rate), where the mask is 0 with probability `rate` and else 1, each element for itself (Srivastava
/// et al. 2014; scaled in training, so that inference does nothing). x [N, D], rows [N]; rate in [0, 1); `place` tells
/// apart what is dropped at one position: below 2^32, another for each layer and use. By Philox (base/rng.h).
void dropout(Context& context, tensor::Matrix x, float rate, std::span<const DropoutRow> rows, uint64_t place);

/// What that multiplies a piece of one row by, the values of columns [col, col + n), col a multiple of 4: for ops that
/// drop while they have a row in hand. n values.
void drop_piece(float* values, int64_t col, int64_t n, float rate, const DropoutRow& row, uint64_t place);

}  // namespace coterie::ops
