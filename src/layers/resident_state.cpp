#include "layers/resident_state.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace coterie::layers {

ResidentState::ResidentState(std::vector<int64_t> block_bytes, tensor::DType dtype,
                             const std::vector<int64_t>& state_floats)
    : block_bytes_(std::move(block_bytes)), dtype_(dtype), layers_(block_bytes_.size()) {
  for (size_t i = 0; i < state_floats.size(); ++i) layers_.at(i).recurrent = tensor::Buffer<float>(state_floats[i]);
  forget();
}

bool ResidentState::is_recurrent() const {
  return std::any_of(layers_.begin(), layers_.end(), [](const Layer& layer) { return layer.recurrent.size() > 0; });
}

void ResidentState::abandon() {
  if (!is_recurrent()) return;
  if (remembered_ == 0) return forget();
  for (Layer& layer : layers_) std::copy_n(layer.remembered.data(), layer.remembered.size(), layer.recurrent.data());
  length_ = remembered_;
}

void ResidentState::forget() {
  for (Layer& layer : layers_) std::fill_n(layer.recurrent.data(), layer.recurrent.size(), 0.0f);
  length_ = remembered_ = 0;
}

void ResidentState::remember() {
  for (Layer& layer : layers_) {
    if (layer.remembered.size() == 0) layer.remembered = tensor::Buffer<float>(layer.recurrent.size());
    std::copy_n(layer.recurrent.data(), layer.recurrent.size(), layer.remembered.data());
  }
  remembered_ = length_;
}

void ResidentState::truncate(int64_t length) {
  if (length == 0) return forget();
  if (is_recurrent() && length != length_) {
    base::require(length == remembered_, "resident state", "recurrent states of {} positions cut to {}", length_,
                  length);
    for (Layer& layer : layers_) std::copy_n(layer.remembered.data(), layer.remembered.size(), layer.recurrent.data());
  }
  length_ = length;
}

void ResidentState::reserve(int64_t rows) {
  const int64_t needed = (length_ + rows + ops::kCacheBlock - 1) / ops::kCacheBlock;
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (block_bytes_[i] == 0) continue;
    while (static_cast<int64_t>(layers_[i].blocks.size()) < needed) {
      layers_[i].blocks.emplace_back(block_bytes_[i]);
      // A kernel reads a block's unused positions, too, and masks them: none may be a NaN.
      std::memset(layers_[i].blocks.back().data(), 0, static_cast<size_t>(block_bytes_[i]));
      layers_[i].pointers.push_back(layers_[i].blocks.back().data());
    }
  }
}

}  // namespace coterie::layers
