#include "train/ranks/shared_weights.h"

#include <algorithm>
#include <cmath>

namespace coterie::train {

using comm::Kind;
using models::Parameter;

SharedWeights::SharedWeights(Team& team, const models::Parameters& parameters, int64_t shards)
    : team_(team),
      parameters_(parameters),
      shards_(shards),
      local_shards_(shards / team.size()),
      ownership_(parameters.list(), team.size()),
      begun_(static_cast<size_t>(local_shards_)) {
  for (const Parameter& p : parameters.list()) {
    at_.push_back(dense_);
    trained_ += p.trained;
    if (p.trained && p.experts == 0) dense_ += p.count;
  }
  // With one shard a rank the gradients are its sum.
  for (int64_t s = 0; s < (local_shards_ > 1 ? local_shards_ : 0); ++s) sums_.emplace_back(dense_);
}

void SharedWeights::add_to(AdamW& optimiser, double matrix_decay, double vector_decay) const {
  if (shards_ == 1) {
    for (const Parameter& p : parameters_.list()) {
      const auto count = static_cast<size_t>(p.count);
      if (p.trained)
        optimiser.add(p.path, {p.values, count}, {p.gradient, count}, p.matrix ? matrix_decay : vector_decay);
    }
    return;
  }
  for (const ValueRange& range : ownership_.of(team_.rank())) {
    const Parameter& p = parameters_.list()[range.parameter];
    const auto count = static_cast<size_t>(range.count());
    optimiser.add(p.path, {values_of(range), count}, {gradient_of(range), count},
                  p.matrix ? matrix_decay : vector_decay, 1, {range.begin, p.whole(), p.of_expert()});
  }
}

float* SharedWeights::gradient_of(const ValueRange& range) const {
  const Parameter& p = parameters_.list()[range.parameter];
  return p.gradient + (range.begin - p.begin());
}

float* SharedWeights::values_of(const ValueRange& range) const {
  const Parameter& p = parameters_.list()[range.parameter];
  return p.values + (range.begin - p.begin());
}

void SharedWeights::begin_step() {
  std::fill(begun_.begin(), begun_.end(), 0);
  current_ = 0;
  if (!begun_.empty()) begun_[0] = 1;  // the gradients are zero
}

void SharedWeights::keep_current() {
  float* to = sums_[static_cast<size_t>(current_)].data();
  for (const Parameter& p : parameters_.list())
    if (p.trained && p.experts == 0) to = std::copy_n(p.gradient, p.count, to);
}

void SharedWeights::select(int64_t shard) {
  const int64_t local = shard / team_.size();
  if (local_shards_ == 1 || local == current_) return;
  keep_current();
  current_ = local;
  const bool again = std::exchange(begun_[static_cast<size_t>(local)], 1) != 0;
  const float* from = sums_[static_cast<size_t>(local)].data();
  for (const Parameter& p : parameters_.list()) {
    if (!p.trained || p.experts > 0) continue;
    if (again)
      std::copy_n(from, p.count, p.gradient);
    else
      std::fill_n(p.gradient, p.count, 0.0f);
    from += p.count;
  }
}

const float* SharedWeights::shard_sum(int64_t local, const ValueRange& range) const {
  if (local_shards_ == 1) return gradient_of(range);
  return sums_[static_cast<size_t>(local)].data() + at_[range.parameter] + range.begin;
}

void SharedWeights::add_up() {
  if (shards_ == 1) return;
  if (local_shards_ > 1) keep_current();
  const int here = team_.rank();
  for (int to = 0; to < team_.size(); ++to) {
    if (to == here) continue;
    for (int64_t local = 0; local < local_shards_; ++local) {
      comm::Writer message(Kind::shard, team_.inbox().step(), -1,
                           static_cast<size_t>(ownership_.dense_values(to)) * sizeof(float) + 8);
      message.number(local);
      auto* values = message.room<float>(static_cast<size_t>(ownership_.dense_values(to)));
      for (const ValueRange& range : ownership_.dense_of(to))
        values = std::copy_n(shard_sum(local, range), range.count(), values);
      team_.ranks().send(to, std::move(message));
    }
  }
  // The first shard's is assigned, so that one that is zero leaves the signs of zeros as they are.
  tensor::Buffer<float> total(ownership_.dense_values(here));
  for (int64_t shard = 0; shard < shards_; ++shard) {
    const int from = static_cast<int>(shard % team_.size());
    const int64_t local = shard / team_.size();
    comm::Message message;
    const float* term = nullptr;
    if (from != here) {
      std::vector<char> missing(static_cast<size_t>(team_.size()));
      missing[static_cast<size_t>(from)] = 1;
      message = team_.inbox().take(missing, {Kind::shard, team_.inbox().step(), -1}, [&](const comm::Message& m) {
        return m.from() == from && m.header().kind == Kind::shard && m.header().number == local;
      });
      term = message.array<float>(static_cast<size_t>(total.size())).data();
    }
    float* sum = total.data();
    for (const ValueRange& range : ownership_.dense_of(here)) {
      const float* const own = from == here ? shard_sum(local, range) : term;
      const int64_t count = range.count();
      if (shard == 0)
        std::copy_n(own, count, sum);
      else
        for (int64_t i = 0; i < count; ++i) sum[i] += own[i];
      sum += count;
      if (from != here) term += count;
    }
  }
  const float* sum = total.data();
  for (const ValueRange& range : ownership_.dense_of(here)) {
    std::copy_n(sum, range.count(), gradient_of(range));
    sum += range.count();
  }
}

double SharedWeights::gradient_norm(const AdamW& optimiser, threads::Pool& pool) const {
  if (shards_ == 1) return optimiser.gradient_norm(pool);
  const std::vector<std::vector<double>> squares = team_.gather(std::span<const double>(optimiser.squares(pool)));
  std::vector<size_t> next(squares.size());
  double total = 0;
  for (size_t i = 0; i < parameters_.list().size(); ++i)
    for (const auto& [rank, range] : ownership_.of_parameter(i)) {
      const auto r = static_cast<size_t>(rank);
      for (int64_t piece = ownership_.pieces(range); piece > 0; --piece) total += squares[r].at(next[r]++);
    }
  return std::sqrt(total);
}

template <typename Memory>
void SharedWeights::spread(Memory&& memory_of, layers::Place* place) {
  if (team_.alone()) return;
  const auto counts = [&](const ValueRange& range) {
    return !place || parameters_.list()[range.parameter].place == *place;
  };
  const auto size_of = [&](int rank) {
    int64_t sum = 0;
    for (const ValueRange& range : ownership_.dense_of(rank))
      if (counts(range)) sum += range.count();
    return static_cast<size_t>(sum);
  };
  for (int to = 0; to < team_.size(); ++to) {
    if (to == team_.rank()) continue;
    comm::Writer message(Kind::values, team_.inbox().step(), -1, size_of(team_.rank()) * sizeof(float) + 8);
    auto* values = message.room<float>(size_of(team_.rank()));
    for (const ValueRange& range : ownership_.dense_of(team_.rank()))
      if (counts(range)) values = std::copy_n(memory_of(range), range.count(), values);
    team_.ranks().send(to, std::move(message));
  }
  for (int from = 0; from < team_.size(); ++from) {
    if (from == team_.rank()) continue;
    std::vector<char> missing(static_cast<size_t>(team_.size()));
    missing[static_cast<size_t>(from)] = 1;
    comm::Message message =
        team_.inbox().take(missing, {Kind::values, team_.inbox().step(), -1},
                           [&](const comm::Message& m) { return m.from() == from && m.header().kind == Kind::values; });
    const float* values = message.array<float>(size_of(from)).data();
    for (const ValueRange& range : ownership_.dense_of(from)) {
      if (!counts(range)) continue;
      std::copy_n(values, range.count(), memory_of(range));
      values += range.count();
    }
  }
}

void SharedWeights::spread_values() {
  spread([&](const ValueRange& range) { return values_of(range); }, nullptr);
}

void SharedWeights::spread_gradients(layers::Place place) {
  spread([&](const ValueRange& range) { return gradient_of(range); }, &place);
}

}  // namespace coterie::train
