#pragma once

#include "quant/scaled_blocks.h"
#include "tensor/view.h"

namespace coterie::quant {

/// Row r of a weight as `cols` floats, in the order of its inputs (Weight::columns); not of repacked rows.
void decode_row(const tensor::Weight& weight, int64_t r, float* values);

/// What the values of such a block are rounded to (quant/scaled_blocks.h); none for every other format.
Rounding rounding_of(tensor::DType dtype);

}  // namespace coterie::quant
