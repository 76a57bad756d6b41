#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/ranks/row_cost.h"

namespace coterie::runtime {

/// What a step evaluates of one sequence: `rows` at positions `first` ….
struct SequenceShare {
  int64_t first = 0, rows = 0;
};

/// Neighbouring rows of one sequence on one rank: rows [begin, end) of those that the step evaluates.
struct Segment {
  int64_t sequence = 0, begin = 0, end = 0;
  int rank = 0;
};

/// Divides the rows of a step over ranks, in order: each rank gets neighbours that cost about as much as those of the
/// others: later rows see more keys, and are fewer. A sequence is cut at multiples of the cache's blocks (16
/// positions), so that each block is written by one rank. In order of sequences and rows, so of ranks, too. Some ranks
/// get none where there are fewer blocks than ranks.
std::vector<Segment> divide(std::span<const SequenceShare> sequences, int ranks, const RowCost& cost);

/// Whether every rank would get rows, and enough of them to be worth the exchange.
bool worth_dividing(std::span<const SequenceShare> sequences, int ranks);

}  // namespace coterie::runtime
