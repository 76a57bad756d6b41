#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "layers/tensor_list.h"
#include "models/spec.h"
#include "tensor/dtype.h"

namespace coterie::models {

using layers::kPlaces;
using layers::name;
using layers::Place;

/// Parameters by place, held and active per token. Active = held - routed experts * (1 - K/E), as the field counts
/// (embedding and head in full). Tied output embeddings count once, as input embeddings. Buffers are not parameters.
struct Account {
  std::array<int64_t, kPlaces> held{}, active{};
  struct Layer {
    std::array<int64_t, kPlaces> held{}, active{};
  };
  std::vector<Layer> layers;
  int64_t cache_bytes_per_token = 0;  // KV cache of one position, at the default cache dtype
  int64_t state_bytes = 0;            // per sequence, whatever its length (SSM states)

  int64_t total() const;
  int64_t total_active() const;
};

/// Bytes of bound weights by place; repacked copies in memory, if any, in `resident`.
struct WeightBytes {
  std::array<int64_t, kPlaces> held{};     // all of them; tied output embeddings once, as input embeddings
  std::array<int64_t, kPlaces> touched{};  // read by a decode step of one token: routed experts × K/E, one row of input
                                           // embeddings that are not tied, everything else in full
  int64_t resident = 0;  // copies that must be in memory (repacked, dequantised vectors)
};

Account account(const ModelSpec& spec, tensor::DType cache_dtype = tensor::DType::f16);

}  // namespace coterie::models
