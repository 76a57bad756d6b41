#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace coterie::quant {

/// Decodes `count` values of one row (a multiple of the format's block) to f32: the scalar reference of every weight
/// format, plain floats included. Formats as in ggml's block layouts (quant/blocks.h).
void decode(tensor::DType dtype, const std::byte* source, float* target, int64_t count);

/// Encodes one row. Weighted least squares where `importance` (one weight a value, >= 0) is given.
/// Throws unsupported, by name, for a format that has no encoder.
void encode(tensor::DType dtype, const float* source, std::byte* target, int64_t count,
            std::span<const float> importance = {});
bool has_encoder(tensor::DType dtype);

}  // namespace coterie::quant
