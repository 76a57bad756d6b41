#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tensor/buffer.h"

namespace coterie::runtime {

/// How the recurrent states of all layers of a sequence lie one after another, and how often they are remembered.
struct StateShape {
  std::vector<int64_t> offset = {0};  // [L+1] in floats
  int64_t interval = 1024;            // positions from one snapshot to the next
  int64_t most = 8;                   // snapshots a sequence keeps
  int64_t drafted = 0;                // drafted tokens of a step at most: a copy is kept for each

  int64_t floats() const { return offset.back(); }
  int64_t bytes() const { return floats() * static_cast<int64_t>(sizeof(float)); }
};

/// The recurrent states of one sequence. A state cannot be cut as a cache of keys can, so copies of it are kept: going
/// back to a position means to restore the nearest copy at or before it and to evaluate anew from there.
class RecurrentStates {
 public:
  /// `shape` must outlive it.
  explicit RecurrentStates(const StateShape& shape);
  /// A copy, which shares the snapshots: they are never written again. Throws out_of_memory when it does not fit.
  RecurrentStates(const RecurrentStates& other);
  RecurrentStates(RecurrentStates&&) noexcept = default;
  RecurrentStates& operator=(RecurrentStates&&) noexcept = default;

  std::span<float> layer(int64_t layer);
  /// Remembers the states as those of `length` positions. Where there are too many snapshots, the one goes whose
  /// neighbours are closest together; never the newest.
  void remember(int64_t length);
  /// Goes back to the last snapshot at or before `length`, forgetting later ones; to zeros when there is none.
  /// Returns the position it went to.
  int64_t restore(int64_t length);

  /// Goes on from `values`, the states of `length` positions as another sequence kept them, which become a snapshot
  /// here too; earlier ones stay.
  void adopt(int64_t length, std::shared_ptr<tensor::Buffer<float>> values);
  /// The states as they are, those of `length` positions, for others to adopt: the newest snapshot where it is there.
  std::shared_ptr<tensor::Buffer<float>> copy(int64_t length) const;

  /// The next step's states after each of its first `rows` rows are kept, in after(). Throws out_of_memory when they do
  /// not fit.
  void keep_after(int64_t rows);
  int64_t kept() const { return kept_; }
  std::span<float> after(int64_t row, int64_t layer);
  /// Goes back to the states after row `row`, or, with -1, stays; keeps none from then on.
  void settle(int64_t row);

  std::vector<int64_t> snapshots() const;  // their positions, ascending
  /// Bytes of the states and of snapshots that no copy of this shares.
  int64_t own_bytes() const;

 private:
  struct Snapshot {
    int64_t length;
    std::shared_ptr<tensor::Buffer<float>> values;
  };
  const StateShape* shape_;
  tensor::Buffer<float> values_;
  std::vector<Snapshot> snapshots_;
  std::vector<tensor::Buffer<float>> after_;  // kept_ of them mean something
  int64_t kept_ = 0;
};

}  // namespace coterie::runtime
