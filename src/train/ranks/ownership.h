#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/parameters.h"

namespace coterie::train {

/// Values [begin, end) of a parameter, counted in the whole, wherever they are.
struct ValueRange {
  size_t parameter = 0;  // of Parameters::list()
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

/// Which rank adds up the gradients of which trained values, and moves them: an expert's its owner (comm::Placement),
/// all others' neighbouring pieces, about as many for each rank. Pieces are those over which AdamW adds up its norm,
/// and none reaches over two experts, so no sum depends on how many ranks there are.
class Ownership {
 public:
  Ownership(std::span<const models::Parameter> list, int ranks);

  /// All that a rank owns, in the order of the list.
  std::span<const ValueRange> of(int rank) const { return of_[static_cast<size_t>(rank)]; }
  /// Those of them that every rank has.
  std::span<const ValueRange> dense_of(int rank) const { return dense_of_[static_cast<size_t>(rank)]; }
  int64_t dense_values(int rank) const;
  /// Every rank's ranges of one parameter, in order.
  struct Part {
    int rank;
    ValueRange range;
  };
  std::vector<Part> of_parameter(size_t parameter) const;
  /// How many pieces a range has.
  int64_t pieces(const ValueRange& range) const;

 private:
  std::vector<models::Parameter> list_;
  std::vector<std::vector<ValueRange>> of_, dense_of_;  // [R]
};

}  // namespace coterie::train
