#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/attention.h"

// Attention to some positions of the cache, which an indexer chose (DeepSeek-V3.2, arXiv:2512.02556 §2.1). Letters: H
// heads of the indexer, d their width.
namespace coterie::ops {

/// The positions that some rows of a sequence see, ascending, as many each.
struct ChosenPositions {
  int64_t first_row = 0;           // of the batch
  int64_t count = 0;               // of each row
  std::vector<int32_t> positions;  // [rows, count]

  int64_t rows() const { return count > 0 ? std::ssize(positions) / count : 0; }
  std::span<const int32_t> of(int64_t row) const {
    return std::span(positions).subspan(static_cast<size_t>(row * count), static_cast<size_t>(count));
  }
};

/// An indexer's keys in the cache: one head of key_dim d, without values. They lie behind what attention has in a
/// block, `offset` bytes from its beginning.
struct IndexCache {
  CacheLayout layout;  // kv_heads 1, value_dim 0
  int64_t offset = 0;
};

/// Writes k [N, d] into the blocks.
void append_index(Context& context, const IndexCache& cache, tensor::ConstMatrix k, std::span<const Segment> segments);

/// For each row of a segment from position top_k on the top_k positions j, up to its own, with the largest
///   Σ_h weights[row, h] · relu(scale · q[row, h] · k_j)
/// ties, which only scores of zero are, as torch.topk decides them. Rows before see all positions: they are not listed.
/// q [N, H * d], weights [N, H]. Products and sums in f32; which are chosen depends on the sequence alone, but for
/// ties: they go by its length, too.
ChosenPositions choose_positions(Context& context, const IndexCache& cache, tensor::ConstMatrix q,
                                 tensor::ConstMatrix weights, float scale, int64_t top_k, const Segment& segment);

/// attention() where the rows that `chosen` lists see these positions alone; chosen has an entry for each segment. The
/// positions that a row sees are gathered from the cache, so that it costs as much as a context of so many.
void attention_at(Context& context, const AttentionShape& shape, tensor::ConstMatrix q,
                  std::span<const Segment> segments, std::span<const ChosenPositions> chosen, tensor::Matrix out);

}  // namespace coterie::ops
