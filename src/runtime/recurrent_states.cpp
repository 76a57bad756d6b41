#include "runtime/recurrent_states.h"

#include <algorithm>

#include "base/error.h"
#include "base/memory.h"

namespace coterie::runtime {

RecurrentStates::RecurrentStates(const StateShape& shape) : shape_(&shape), values_(shape.floats()) { restore(0); }

RecurrentStates::RecurrentStates(const RecurrentStates& other)
    : shape_(other.shape_), checkpoints_(other.checkpoints_) {
  if (shape_->floats() > 0)
    base::require_memory(shape_->bytes(), "recurrent states of another sequence", "fewer sequences need less");
  values_ = tensor::Buffer<float>(shape_->floats());
  std::copy_n(other.values_.data(), values_.size(), values_.data());
}

int64_t RecurrentStates::own_bytes() const {
  int64_t copies = 1;
  for (const Checkpoint& checkpoint : checkpoints_) copies += checkpoint.values.use_count() == 1;
  return copies * shape_->bytes();
}

std::span<float> RecurrentStates::layer(int64_t layer) {
  base::require(layer >= 0 && layer + 1 < static_cast<int64_t>(shape_->offset.size()), "recurrent states",
                "layer {} of {}", layer, shape_->offset.size() - 1);
  const int64_t begin = shape_->offset[static_cast<size_t>(layer)];
  return values_.span().subspan(static_cast<size_t>(begin),
                                static_cast<size_t>(shape_->offset[static_cast<size_t>(layer) + 1] - begin));
}

void RecurrentStates::remember(int64_t length) {
  if (shape_->floats() == 0 || shape_->most < 1 || length == 0) return;
  if (!checkpoints_.empty() && checkpoints_.back().length == length) return;
  base::require(checkpoints_.empty() || checkpoints_.back().length < length, "recurrent states",
                "a checkpoint at {} after one at {}", length, checkpoints_.back().length);
  std::shared_ptr<tensor::Buffer<float>> values;
  if (static_cast<int64_t>(checkpoints_.size()) >= shape_->most) {
    size_t least = 0;
    int64_t least_gap = INT64_MAX;
    for (size_t i = 0; i < checkpoints_.size(); ++i) {
      const int64_t before = i == 0 ? 0 : checkpoints_[i - 1].length;
      const int64_t after = i + 1 < checkpoints_.size() ? checkpoints_[i + 1].length : length;
      if (after - before < least_gap) least = i, least_gap = after - before;
    }
    values = std::move(checkpoints_[least].values);
    checkpoints_.erase(checkpoints_.begin() + static_cast<int64_t>(least));
  }
  if (!values || values.use_count() > 1) values = std::make_shared<tensor::Buffer<float>>(shape_->floats());
  std::copy_n(values_.data(), values_.size(), values->data());
  checkpoints_.push_back({length, std::move(values)});
}

int64_t RecurrentStates::restore(int64_t length) {
  while (!checkpoints_.empty() && checkpoints_.back().length > length) checkpoints_.pop_back();
  if (checkpoints_.empty()) {
    std::fill_n(values_.data(), values_.size(), 0.0f);
    return 0;
  }
  std::copy_n(checkpoints_.back().values->data(), values_.size(), values_.data());
  return checkpoints_.back().length;
}

void RecurrentStates::adopt(int64_t length, std::shared_ptr<tensor::Buffer<float>> values) {
  base::require(values && values->size() == values_.size(), "recurrent states", "a copy of other states");
  while (!checkpoints_.empty() && checkpoints_.back().length >= length) checkpoints_.pop_back();
  if (!checkpoints_.empty() && std::ssize(checkpoints_) >= shape_->most) checkpoints_.erase(checkpoints_.begin());
  std::copy_n(values->data(), values_.size(), values_.data());
  if (shape_->most > 0) checkpoints_.push_back({length, std::move(values)});
}

std::shared_ptr<tensor::Buffer<float>> RecurrentStates::copy(int64_t length) const {
  if (!checkpoints_.empty() && checkpoints_.back().length == length) return checkpoints_.back().values;
  auto values = std::make_shared<tensor::Buffer<float>>(shape_->floats());
  std::copy_n(values_.data(), values_.size(), values->data());
  return values;
}

std::vector<int64_t> RecurrentStates::checkpoints() const {
  std::vector<int64_t> lengths;
  for (const Checkpoint& checkpoint : checkpoints_) lengths.push_back(checkpoint.length);
  return lengths;
}

}  // namespace coterie::runtime
