#include "runtime/recurrent_states.h"

#include <algorithm>

#include "base/error.h"
#include "base/memory.h"

namespace coterie::runtime {

RecurrentStates::RecurrentStates(const StateShape& shape) : shape_(&shape), values_(shape.floats()) { restore(0); }

RecurrentStates::RecurrentStates(const RecurrentStates& other) : shape_(other.shape_), snapshots_(other.snapshots_) {
  if (shape_->floats() > 0)
    base::require_memory(shape_->bytes(), "recurrent states of another sequence", "fewer sequences need less");
  values_ = tensor::Buffer<float>(shape_->floats());
  std::copy_n(other.values_.data(), values_.size(), values_.data());
}

int64_t RecurrentStates::own_bytes() const {
  int64_t copies = 1 + std::ssize(after_);
  for (const Snapshot& snapshot : snapshots_) copies += snapshot.values.use_count() == 1;
  return copies * shape_->bytes();
}

namespace {

std::span<float> part_of(const StateShape& shape, tensor::Buffer<float>& values, int64_t layer) {
  base::require(layer >= 0 && layer + 1 < static_cast<int64_t>(shape.offset.size()), "recurrent states",
                "layer {} of {}", layer, shape.offset.size() - 1);
  const int64_t begin = shape.offset[static_cast<size_t>(layer)];
  return values.span().subspan(static_cast<size_t>(begin),
                               static_cast<size_t>(shape.offset[static_cast<size_t>(layer) + 1] - begin));
}

}  // namespace

std::span<float> RecurrentStates::layer(int64_t layer) { return part_of(*shape_, values_, layer); }

void RecurrentStates::keep_after(int64_t rows) {
  if (shape_->floats() == 0) return;
  if (const int64_t missing = rows - std::ssize(after_); missing > 0)
    base::require_memory(missing * shape_->bytes(), "copies of the recurrent states for drafted tokens",
                         "fewer drafted tokens need less");
  while (std::ssize(after_) < rows) after_.emplace_back(shape_->floats());
  kept_ = rows;
}

std::span<float> RecurrentStates::after(int64_t row, int64_t layer) {
  return part_of(*shape_, after_[static_cast<size_t>(row)], layer);
}

void RecurrentStates::settle(int64_t row) {
  base::require(row < kept_, "recurrent states", "row {} of {} that were kept", row, kept_);
  if (row >= 0) std::swap(values_, after_[static_cast<size_t>(row)]);
  kept_ = 0;
}

void RecurrentStates::remember(int64_t length) {
  if (shape_->floats() == 0 || shape_->most < 1 || length == 0) return;
  if (!snapshots_.empty() && snapshots_.back().length == length) return;
  base::require(snapshots_.empty() || snapshots_.back().length < length, "recurrent states",
                "a snapshot at {} after one at {}", length, snapshots_.back().length);
  std::shared_ptr<tensor::Buffer<float>> values;
  if (static_cast<int64_t>(snapshots_.size()) >= shape_->most) {
    size_t least = 0;
    int64_t least_gap = INT64_MAX;
    for (size_t i = 0; i < snapshots_.size(); ++i) {
      const int64_t before = i == 0 ? 0 : snapshots_[i - 1].length;
      const int64_t after = i + 1 < snapshots_.size() ? snapshots_[i + 1].length : length;
      if (after - before < least_gap) least = i, least_gap = after - before;
    }
    values = std::move(snapshots_[least].values);
    snapshots_.erase(snapshots_.begin() + static_cast<int64_t>(least));
  }
  if (!values || values.use_count() > 1) values = std::make_shared<tensor::Buffer<float>>(shape_->floats());
  std::copy_n(values_.data(), values_.size(), values->data());
  snapshots_.push_back({length, std::move(values)});
}

int64_t RecurrentStates::restore(int64_t length) {
  while (!snapshots_.empty() && snapshots_.back().length > length) snapshots_.pop_back();
  if (snapshots_.empty()) {
    std::fill_n(values_.data(), values_.size(), 0.0f);
    return 0;
  }
  std::copy_n(snapshots_.back().values->data(), values_.size(), values_.data());
  return snapshots_.back().length;
}

void RecurrentStates::adopt(int64_t length, std::shared_ptr<tensor::Buffer<float>> values) {
  base::require(values && values->size() == values_.size(), "recurrent states", "a copy of other states");
  while (!snapshots_.empty() && snapshots_.back().length >= length) snapshots_.pop_back();
  if (!snapshots_.empty() && std::ssize(snapshots_) >= shape_->most) snapshots_.erase(snapshots_.begin());
  std::copy_n(values->data(), values_.size(), values_.data());
  if (shape_->most > 0) snapshots_.push_back({length, std::move(values)});
}

std::shared_ptr<tensor::Buffer<float>> RecurrentStates::copy(int64_t length) const {
  if (!snapshots_.empty() && snapshots_.back().length == length) return snapshots_.back().values;
  auto values = std::make_shared<tensor::Buffer<float>>(shape_->floats());
  std::copy_n(values_.data(), values_.size(), values->data());
  return values;
}

std::vector<int64_t> RecurrentStates::snapshots() const {
  std::vector<int64_t> lengths;
  for (const Snapshot& snapshot : snapshots_) lengths.push_back(snapshot.length);
  return lengths;
}

}  // namespace coterie::runtime
