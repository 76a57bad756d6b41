#include "runtime/ranks/division.h"

#include <algorithm>

#include "ops/attention.h"

namespace coterie::runtime {

namespace {

/// Blocks that a sequence's new rows lie in.
int64_t blocks_of(const SequenceShare& s) {
  return s.rows == 0 ? 0 : (s.first + s.rows - 1) / ops::kCacheBlock - s.first / ops::kCacheBlock + 1;
}

int64_t all_blocks(std::span<const SequenceShare> sequences) {
  int64_t blocks = 0;
  for (const SequenceShare& s : sequences) blocks += blocks_of(s);
  return blocks;
}

/// The row at the beginning of a block of a sequence; the first one may lie within its block.
int64_t row_at(const SequenceShare& s, int64_t block) {
  return std::clamp((s.first / ops::kCacheBlock + block) * ops::kCacheBlock - s.first, int64_t{0}, s.rows);
}

/// [ranks + 1]: the blocks of all sequences at which the ranks begin: as near as can be to even parts of the cost.
std::vector<int64_t> cuts(std::span<const SequenceShare> sequences, int ranks, const RowCost& cost) {
  std::vector<double> costs;  // of each block, of rows at its middle
  double total = 0;
  for (const SequenceShare& s : sequences)
    for (int64_t b = 0, blocks = blocks_of(s); b < blocks; ++b) {
      const int64_t begin = row_at(s, b), end = row_at(s, b + 1);
      costs.push_back(static_cast<double>(end - begin) * cost.at(s.first + (begin + end) / 2));
      total += costs.back();
    }
  const int64_t blocks = std::ssize(costs);
  std::vector<int64_t> result(static_cast<size_t>(ranks) + 1, blocks);
  result.front() = 0;
  double before = 0;
  for (int64_t b = 0, r = 1; r < ranks; ++r) {
    const double wanted = total * static_cast<double>(r) / ranks;
    for (; b < blocks && before + costs[static_cast<size_t>(b)] / 2 <= wanted; ++b)
      before += costs[static_cast<size_t>(b)];
    // Each gets one where there are enough.
    result[static_cast<size_t>(r)] = blocks >= ranks ? std::clamp<int64_t>(b, r, blocks - (ranks - r)) : b;
  }
  return result;
}

}  // namespace

std::vector<Segment> divide(std::span<const SequenceShare> sequences, int ranks, const RowCost& cost) {
  std::vector<Segment> segments;
  const std::vector<int64_t> begins = cuts(sequences, ranks, cost);
  int64_t before = 0;  // blocks of earlier sequences
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceShare& s = sequences[i];
    const int64_t blocks = blocks_of(s);
    for (int r = 0; r < ranks && blocks > 0; ++r) {
      const auto rank = static_cast<size_t>(r);
      const int64_t first = std::clamp(begins[rank] - before, int64_t{0}, blocks);
      const int64_t end = std::clamp(begins[rank + 1] - before, int64_t{0}, blocks);
      if (first < end) segments.push_back({static_cast<int64_t>(i), row_at(s, first), row_at(s, end), r});
    }
    before += blocks;
  }
  return segments;
}

bool worth_dividing(std::span<const SequenceShare> sequences, int ranks) {
  constexpr int64_t kLeastRows = 2 * ops::kCacheBlock;
  int64_t rows = 0;
  for (const SequenceShare& s : sequences) rows += s.rows;
  return ranks > 1 && all_blocks(sequences) >= ranks && rows >= kLeastRows * ranks;
}

}  // namespace coterie::runtime
