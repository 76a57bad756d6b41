#include "tensor/arena.h"

#include <algorithm>

namespace coterie::tensor {

namespace {
constexpr int64_t kLargestChunk = 64 << 20;
}

int64_t Arena::capacity() const {
  int64_t bytes = 0;
  for (const auto& chunk : chunks_) bytes += chunk.size();
  return bytes;
}

Arena::Place Arena::find(const void* address) const {
  const auto at = reinterpret_cast<uintptr_t>(address);
  for (size_t i = 0; i < chunks_.size(); ++i) {
    const auto begin = reinterpret_cast<uintptr_t>(chunks_[i].data());
    if (at >= begin && at < begin + static_cast<uintptr_t>(chunks_[i].size()))
      return {static_cast<int64_t>(i), static_cast<int64_t>(at - begin)};
  }
  return {};
}

std::byte* Arena::take_bytes(int64_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (chunk_ < chunks_.size()) {
    if (used_ + bytes <= chunks_[chunk_].size()) {
      std::byte* taken = chunks_[chunk_].data() + used_;
      used_ += bytes;
      return taken;
    }
    ++chunk_, used_ = 0;
  }
  // Chunks double up to a size at which their number no longer matters; a larger piece gets a chunk of its own size.
  chunks_.emplace_back(std::max(bytes, next_chunk_));
  next_chunk_ = std::min(2 * next_chunk_, kLargestChunk);
  used_ = bytes;
  return chunks_.back().data();
}

}  // namespace coterie::tensor
