#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/tensor_source.h"
#include "models/spec.h"
#include "tensor/dtype.h"

// What a GGUF file says of a model beside its tensors: the other way round of metadata_reader.h.
namespace coterie::families {

/// general.architecture of a model that was read from a config.json. Throws unsupported when GGUF has none.
std::string gguf_architecture(const models::ModelSpec& spec);

/// general.* and {architecture}.*, complete for llama.cpp too; no tokenizer. What the architecture's keys cannot say is
/// left out: a reader of the result may find another model (surgery::convert compares).
checkpoint::Metadata gguf_metadata(const models::ModelSpec& spec, const std::string& name);

/// What a row of `cols` values is stored as where it is not a whole number of `dtype`'s blocks, as llama.cpp has it:
/// q4_k becomes q5_0, q5_k q5_1, q6_k q8_0, q2_k, q3_k and tq q4_0, iq1 to iq4_xs iq4_nl, and those f16.
tensor::DType fitting_format(tensor::DType dtype, int64_t cols);

}  // namespace coterie::families
