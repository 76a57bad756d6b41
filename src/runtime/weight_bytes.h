#pragma once

#include <array>
#include <cstdint>

#include "models/account.h"
#include "models/decoder.h"
#include "runtime/own_weights.h"

namespace coterie::runtime {

/// Bytes of a decoder's bound weights, by place, as they lie in memory.
struct WeightBytes {
  std::array<int64_t, models::kPlaces> held{};  // tied output embeddings once, as input embeddings
  // Read by a decode step of one token: routed experts × K/E, one row of input embeddings that are not the head too,
  // everything else in full.
  std::array<int64_t, models::kPlaces> touched{};

  int64_t all_held() const;
  int64_t all_touched() const;
  /// Read by a step that touches this share of all routed experts: of several tokens, say.
  int64_t touched_with(double expert_share) const;
};
WeightBytes weight_bytes(const models::Decoder& decoder);
/// Of what is bound, those that one of several ranks reads.
int64_t bytes_of_rank(const models::Decoder& decoder, const OwnWeights& own);

}  // namespace coterie::runtime
