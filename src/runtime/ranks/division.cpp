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

}  // namespace

std::vector<Segment> divide(std::span<const SequenceShare> sequences, int ranks) {
  std::vector<Segment> segments;
  const int64_t total = all_blocks(sequences);
  int64_t before = 0;  // blocks of earlier sequences
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceShare& s = sequences[i];
    const int64_t blocks = blocks_of(s);
    for (int r = 0; r < ranks && blocks > 0; ++r) {
      const int64_t first = std::clamp(total * r / ranks - before, int64_t{0}, blocks);
      const int64_t end = std::clamp(total * (r + 1) / ranks - before, int64_t{0}, blocks);
      if (first == end) continue;
      // The row at the beginning of a block; the first one may lie within its block.
      const auto row = [&](int64_t block) {
        return std::clamp((s.first / ops::kCacheBlock + block) * ops::kCacheBlock - s.first, int64_t{0}, s.rows);
      };
      segments.push_back({static_cast<int64_t>(i), row(first), row(end), r});
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
