#pragma once

#include <cstdint>
#include <vector>

#include "tensor/view.h"

namespace coterie::layers {

/// The assignment of one expert to each token that has the largest sum of scores [N, E] while no expert gets more than
/// ceil(N / E) tokens: successive longest paths (Ford and Fulkerson 1962), exact, in O(N (N + E³)) at worst. Returns
/// the expert of each token.
std::vector<int32_t> balanced_assignment(tensor::ConstMatrix scores);

}  // namespace coterie::layers
