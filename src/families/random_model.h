#pragma once

#include <set>
#include <string>
#include <vector>

#include "checkpoint/random_source.h"
#include "models/spec.h"
#include "tensor/dtype.h"

namespace coterie::families {

/// A model with weights to be drawn, as a GGUF file of it would be: names, shapes, formats and metadata.
struct RandomModel {
  std::vector<checkpoint::RandomTensor> tensors;
  checkpoint::Metadata metadata;      // complete for llama.cpp too, with a vocabulary of nameless tokens ("no_vocab")
  std::set<tensor::DType> fallbacks;  // formats of rows that are not a whole number of blocks
};
/// Every matrix in `quant`, as a plain (not _M) quantisation has it, except that routers and the gate of a shared
/// expert are f32, vectors are f32, and the output matrix is q6_k where `quant` is a block format below 8 bits. A row
/// that is not a whole number of blocks falls back as llama.cpp has it: q4_k to q5_0, q5_k to q5_1, q6_k to q8_0, q2_k,
/// q3_k and tq to q4_0, iq1 to iq4_xs to iq4_nl, and those to f16. `router_spread`: of the rows of routers
/// (RandomTensor::row_spread).
RandomModel random_model(const models::ModelSpec& spec, tensor::DType quant, const std::string& name,
                         float router_spread = 0);

}  // namespace coterie::families
