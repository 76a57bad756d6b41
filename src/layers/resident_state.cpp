#include "layers/resident_state.h"

namespace coterie::layers {

void ResidentState::reserve(int64_t rows) {
  const int64_t needed = (length_ + rows + ops::kCacheBlock - 1) / ops::kCacheBlock;
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (block_bytes_[i] == 0) continue;
    while (static_cast<int64_t>(layers_[i].blocks.size()) < needed) {
      layers_[i].blocks.emplace_back(block_bytes_[i]);
      layers_[i].pointers.push_back(layers_[i].blocks.back().data());
    }
  }
}

}  // namespace coterie::layers
