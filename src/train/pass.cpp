#include "train/pass.h"

#include <algorithm>

#include "base/rng.h"
#include "models/spec.h"

namespace coterie::train {

namespace {

// The random key of the sequence-th sequence of a sample.
uint64_t key_of(uint64_t seed, int64_t sample, int64_t sequence) {
  constexpr uint64_t kWindowKey = 4;  // apart from what windows.cpp draws
  const auto block =
      base::Philox::block(seed, (kWindowKey << 56) | static_cast<uint64_t>(sequence), static_cast<uint64_t>(sample));
  return (uint64_t{block[0]} << 32) | block[1];
}

}  // namespace

double Pass::loss(ops::Context& context, const Split& split, int64_t first, int64_t count, uint64_t seed,
                  const models::PassOptions& options) {
  const models::ModelSpec& spec = decoder_.spec();
  ids_.clear(), targets_.clear(), lengths_.clear(), sample_.clear();
  for (int64_t s = 0; s < count; ++s) {
    split.read(first + s, ids_, targets_, lengths_);
    sample_.resize(lengths_.size(), first + s);
  }
  while (states_.size() < lengths_.size())
    states_.push_back(std::make_unique<layers::ResidentState>(models::cache_block_bytes(spec, tensor::DType::f32),
                                                              tensor::DType::f32, models::state_floats(spec)));
  std::vector<models::SequenceStep> steps;
  size_t at = 0;
  int64_t sequence = 0;  // of its sample
  for (size_t s = 0; s < lengths_.size(); ++s) {
    sequence = s > 0 && sample_[s] == sample_[s - 1] ? sequence + 1 : 0;
    const auto size = static_cast<size_t>(lengths_[s]);
    layers::ResidentState& state = *states_[s];
    state.truncate(0);
    state.reserve(lengths_[s]);
    steps.push_back({.ids = std::span(ids_).subspan(at, size),
                     .state = &state,
                     .random_key = key_of(seed, sample_[s], sequence),
                     .targets = std::span(targets_).subspan(at, size)});
    at += size;
  }
  return decoder_.loss(context, steps, options);
}

std::optional<double> mean_loss(Pass& pass, ops::Context& context, const Split& split, int64_t count, int64_t batch,
                                const models::PassOptions& options, Team& team, const std::atomic<bool>& stop) {
  double sum = 0;
  for (int64_t done = 0; done < count; done += batch * team.size()) {
    if (team.any(stop)) return {};
    // Whose turn would be past the end takes part with the first windows: the others may need its experts.
    const int64_t own = done + batch * team.rank();
    const bool counts = own < count;
    const int64_t first = counts ? own : 0;
    const double loss = pass.loss(context, split, first, std::min(batch, count - first), 0, options);
    for (const std::vector<double>& of_rank : team.gather(std::span<const double>(&loss, counts ? 1 : 0)))
      if (!of_rank.empty()) sum += of_rank.front();
  }
  return sum / static_cast<double>(split.scored(0, count));
}

}  // namespace coterie::train
