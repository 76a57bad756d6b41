#pragma once

#include <cstdint>
#include <vector>

#include "comm/placement.h"

namespace coterie::runtime {

/// Which ranks own which routed experts of which layers (Split::experts), and who of them computes one: nothing that a
/// bit depends on. The same on all ranks.
class ExpertPlacement {
 public:
  /// Neighbouring experts on each rank, as comm::Placement has them.
  explicit ExpertPlacement(int ranks) : even_{ranks} {}
  /// By use: `counts[layer][expert]`, empty for a layer without routed experts. The `hot` most used experts of each
  /// layer are owned by every rank; of the others each rank gets about as many, and about as much use: from the most
  /// used on, each goes to the rank that has had least so far.
  ExpertPlacement(int ranks, const std::vector<std::vector<int64_t>>& counts, int64_t hot);

  int ranks() const { return even_.ranks; }
  bool owns(int rank, int64_t layer, int64_t expert, int64_t experts) const {
    const int owner = owner_of(layer, expert, experts);
    return owner == rank || owner == kEverybody;
  }
  /// Who computes it for rows of rank `home`: that one, where it owns it.
  int computes(int home, int64_t layer, int64_t expert, int64_t experts) const {
    const int owner = owner_of(layer, expert, experts);
    return owner == kEverybody ? home : owner;
  }

 private:
  static constexpr int kEverybody = -1;
  int owner_of(int64_t layer, int64_t expert, int64_t experts) const;

  comm::Placement even_;
  std::vector<std::vector<int>> owner_;  // [L][E], of layers that are placed by use
};

}  // namespace coterie::runtime
