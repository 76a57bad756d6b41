#include "train/pass.h"

#include <algorithm>

#include "base/rng.h"
#include "models/spec.h"

namespace coterie::train {

namespace {

uint64_t key_of(uint64_t seed, int64_t window) {
  constexpr uint64_t kWindowKey = 4;  // apart from what windows.cpp draws
  const auto block = base::Philox::block(seed, kWindowKey << 56, static_cast<uint64_t>(window));
  return (uint64_t{block[0]} << 32) | block[1];
}

}  // namespace

double Pass::loss(ops::Context& context, const Split& split, int64_t first, int64_t count, uint64_t seed,
                  const models::LossOptions& options) {
  const models::ModelSpec& spec = decoder_.spec();
  while (std::ssize(states_) < count) {
    states_.push_back(std::make_unique<layers::ResidentState>(models::cache_block_bytes(spec, tensor::DType::f32),
                                                              tensor::DType::f32, models::state_floats(spec)));
    states_.back()->reserve(length_);
  }
  ids_.resize(static_cast<size_t>(count * length_)), targets_.resize(ids_.size());
  std::vector<models::SequenceStep> steps;
  for (int64_t s = 0; s < count; ++s) {
    const auto at = static_cast<size_t>(s * length_), size = static_cast<size_t>(length_);
    const std::span<int32_t> ids(ids_.data() + at, size), targets(targets_.data() + at, size);
    split.read(first + s, ids, targets);
    layers::ResidentState& state = *states_[static_cast<size_t>(s)];
    state.truncate(0);
    steps.push_back({.ids = ids, .state = &state, .random_key = key_of(seed, first + s), .targets = targets});
  }
  return decoder_.loss(context, steps, options);
}

std::optional<double> mean_loss(Pass& pass, ops::Context& context, const Split& split, int64_t count, int64_t batch,
                                const std::atomic<bool>& stop) {
  double sum = 0;
  for (int64_t done = 0; done < count; done += batch) {
    if (stop) return {};
    sum += pass.loss(context, split, done, std::min(batch, count - done), 0);
  }
  return sum / static_cast<double>(count * pass.length());
}

}  // namespace coterie::train
