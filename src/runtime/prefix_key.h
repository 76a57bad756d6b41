#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"

namespace coterie::runtime {

/// What the bits of a sequence's pages depend on beside its tokens and the engine. Whatever belongs to the engine
/// (weights, adapter, routers, rotary scaling, precision, cache type, kernels) is the same for all that share its pool.
struct PrefixFields {
  std::string salt = {};                   // nothing computes with it: it keeps apart who must not notice each other
  std::optional<uint64_t> seed = {};       // of routers that draw
  std::string routers = {};                // what is changed of the routers' decisions (silenced experts, …)
  std::vector<double> model_weights = {};  // of an ensemble
};

/// The key of a root of PrefixCache for a sequence of `length` tokens. The length is in it where rotary frequencies
/// depend on it: dynamic scaling past the original context, and the side of the original context for LongRoPE.
std::string prefix_key(const models::Decoder& decoder, const PrefixFields& fields, int64_t length);

}  // namespace coterie::runtime
