#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/parameters.h"
#include "tensor/buffer.h"
#include "threads/pool.h"
#include "train/adamw.h"
#include "train/ranks/ownership.h"
#include "train/ranks/team.h"

namespace coterie::train {

/// The weights of a run between its ranks and its virtual shards.
///
/// A step's micro-batches are dealt out to V shards in turn, and the shards to the ranks. What is on every rank gets
/// the gradient g_0 + g_1 + … + g_{V-1}, added in this order by the rank that owns the values, where g_s is the sum
/// over the micro-batches of shard s in their order. So n ranks give the bits of one for every n that divides V.
/// Experts get theirs from all micro-batches in order, by their owner (ExpertExchange). With one shard nothing is done:
/// that is a run without shards.
class SharedWeights {
 public:
  /// All must outlive it.
  SharedWeights(Team& team, const models::Parameters& parameters, int64_t shards);

  /// Gives the optimiser what this rank owns.
  void add_to(AdamW& optimiser, double matrix_decay, double vector_decay) const;
  /// The values that the optimiser has: for its restore().
  size_t trained_parameters() const { return trained_; }

  /// A step: gradients are zero.
  void begin_step();
  /// What follows is of this shard, one of the rank's.
  void select(int64_t shard);
  /// After all micro-batches: the owned values' gradients are the sums over all shards.
  void add_up();
  /// After that: √Σg² over all ranks, added piece by piece in one order.
  double gradient_norm(const AdamW& optimiser, threads::Pool& pool) const;
  /// After the optimiser's step: every rank has all values again that are on every rank.
  void spread_values();
  /// The gradients of a place that are on every rank, for whoever shows them.
  void spread_gradients(layers::Place place);

  const Ownership& ownership() const { return ownership_; }

 private:
  float* gradient_of(const ValueRange& range) const;
  float* values_of(const ValueRange& range) const;
  template <typename Memory>
  void spread(Memory&& memory_of, layers::Place* place);
  const float* shard_sum(int64_t local, const ValueRange& range) const;
  void keep_current();

  Team& team_;
  const models::Parameters& parameters_;
  int64_t shards_, local_shards_;
  Ownership ownership_;
  size_t trained_ = 0;
  int64_t dense_ = 0;                        // values that are on every rank
  std::vector<int64_t> at_;                  // of each parameter among those
  std::vector<tensor::Buffer<float>> sums_;  // [V / n] of the shards of this rank that are not the current one
  std::vector<char> begun_;                  // [V / n]
  int64_t current_ = 0;                      // the local shard whose sum is in the gradients
};

}  // namespace coterie::train
