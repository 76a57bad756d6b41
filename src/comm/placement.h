#pragma once

#include <cstdint>

namespace coterie::comm {

/// Which rank owns which routed expert: rank r those from E r / R up to E (r + 1) / R, in every layer. Where R does not
/// divide E the parts differ by one; with more ranks than experts some own none.
struct Placement {
  int ranks = 1;

  int64_t first(int rank, int64_t experts) const { return experts * rank / ranks; }
  int64_t end(int rank, int64_t experts) const { return first(rank + 1, experts); }
  int owner(int64_t expert, int64_t experts) const {
    return static_cast<int>(((expert + 1) * ranks - 1) / experts);  // the last r with E r / R <= expert
  }
  bool owns(int rank, int64_t expert, int64_t experts) const {
    return expert >= first(rank, experts) && expert < end(rank, experts);
  }
};

}  // namespace coterie::comm
