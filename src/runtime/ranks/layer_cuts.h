#pragma once

#include <cstdint>
#include <vector>

#include "models/decoder.h"

namespace coterie::runtime {

/// Layers [first, end) of a rank.
struct LayerSpan {
  int64_t first = 0, end = 0;
  bool empty() const { return first == end; }
};

/// Which layers each of some ranks has (Split::layers): neighbours, in the order of the ranks, of about as many bytes
/// of weights for each; rank 0 has the embeddings and the head besides. No cut is made where a layer needs more of the
/// one before than the residual stream: a shortcut of routed experts, what an indexer chose. With too few layers some
/// ranks have none. The same on all ranks, which have the same files.
std::vector<LayerSpan> cut_layers(const models::Decoder& decoder, int ranks);

/// The same by bytes of each layer, `outside` of what belongs to none, and where a cut may be made ([L], before each
/// layer).
std::vector<LayerSpan> cut_layers(const std::vector<int64_t>& bytes, int64_t outside, const std::vector<char>& may_cut,
                                  int ranks);

}  // namespace coterie::runtime
