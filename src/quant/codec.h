#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace coterie::quant {

/// Decodes `count` values of one row (a multiple of the format's block) to f32: the scalar reference of every weight
/// format, plain floats included. Formats as in ggml's block layouts (quant/blocks.h).
void decode(tensor::DType dtype, const std::byte* source, float* target, int64_t count);

/// Encodes one row. Without importance the formats of 32 values (except iq4_nl) get gguf-py's bits; the others get the
/// codes of least squared error that a search finds. With importance (one weight a value, >= 0) the weighted squared
/// error is minimised in all block formats (a row of zeros counts as none given); plain floats are rounded to nearest
/// even either way. Throws unsupported, by name, for a format that has no encoder; bad_input for values that are not
/// finite (f32 and bf16 keep them) or too large for the format's half-precision scale.
void encode(tensor::DType dtype, const float* source, std::byte* target, int64_t count,
            std::span<const float> importance = {});
bool has_encoder(tensor::DType dtype);

/// Whether its values are entries of a codebook or ternary: the formats of 1 to 3 bits, which are read, not written.
bool is_grid(tensor::DType dtype);
/// Whether it is a block that quantised safetensors are put together to: no file has those.
bool is_scaled(tensor::DType dtype);

}  // namespace coterie::quant
