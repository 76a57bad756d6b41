#include "ops/sparse_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "ops/matmul.h"
#include "ops/rows.h"
#include "ops/tape.h"
#include "quant/codec.h"

namespace coterie::ops {

using base::require;

namespace {

using tensor::DType;

constexpr int64_t kGathered = int64_t{64} << 20;  // bytes of gathered blocks at a time
constexpr int64_t kScores = int64_t{4} << 20;     // floats of scores at a time

int64_t blocks_for(int64_t positions) { return (positions + kCacheBlock - 1) / kCacheBlock; }

/// One position of one half of a head: `dims` elements, each `step` elements after the one before.
void copy_elements(const std::byte* from, std::byte* to, int64_t size, int64_t dims, int64_t step) {
  for (int64_t i = 0; i < dims; ++i)
    std::memcpy(to + i * step * size, from + i * step * size, static_cast<size_t>(size));
}

/// A position's key and value from one slot of a block to one of another.
void copy_slot(const CacheLayout& layout, const std::byte* from, int64_t from_slot, std::byte* to, int64_t to_slot) {
  const bool codes = layout.dtype == DType::q8_0;
  const int64_t size = codes ? 1 : tensor::info(layout.dtype).block_bytes;
  constexpr int64_t kScale = sizeof(float);
  for (int64_t h = 0; h < layout.kv_heads; ++h, from += layout.head_bytes(), to += layout.head_bytes()) {
    const auto keys = [&](int64_t at, int64_t bytes, int64_t dims) {
      copy_elements(from + at + from_slot * bytes, to + at + to_slot * bytes, bytes, dims, kCacheBlock);
    };
    const auto values = [&](int64_t at, int64_t bytes, int64_t dims) {
      std::memcpy(to + at + to_slot * dims * bytes, from + at + from_slot * dims * bytes,
                  static_cast<size_t>(dims * bytes));
    };
    const int64_t kd = layout.key_dim, vd = layout.value_dim;
    keys(0, size, kd);
    if (!codes) {
      values(kCacheBlock * kd * size, size, vd);
      continue;
    }
    keys(kCacheBlock * kd, kScale, kernels::cache_groups(kd));
    const int64_t at = kernels::cache_code_bytes(kd);
    values(at, size, vd);
    values(at + kCacheBlock * vd, kScale, kernels::cache_groups(vd));
  }
}

/// The index keys of a block as rows of floats, [16, d].
void decode_keys(const CacheLayout& layout, const std::byte* keys, float* columns, tensor::Matrix rows) {
  const int64_t d = layout.key_dim, n = d * kCacheBlock;
  if (layout.dtype == DType::q8_0) {
    const auto* codes = reinterpret_cast<const int8_t*>(keys);
    const auto* scales = reinterpret_cast<const float*>(keys + n);
    for (int64_t i = 0; i < n; ++i)
      columns[i] =
          static_cast<float>(codes[i]) * scales[i / kCacheBlock / kernels::kCacheGroup * kCacheBlock + i % kCacheBlock];
  } else {
    quant::decode(layout.dtype, keys, columns, n);
  }
  for (int64_t slot = 0; slot < rows.rows; ++slot)
    for (int64_t i = 0; i < d; ++i) rows.row(slot)[i] = columns[i * kCacheBlock + slot];
}

/// The best of scores [n], ascending by position. Ties, which are zeros where no head of an indexer has anything, go as
/// torch.topk leaves them: it partitions all positions of a pass, those that a row may not see (-infinity) too. (The
/// lowest position first is simpler, and 4.8 spreads of the logits off on tests/parity/data/deepseek-v32/base.)
void take_best(const float* scores, int64_t n, int64_t count, std::vector<int32_t>& order, int32_t* best) {
  order.resize(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto better = [&](int32_t a, int32_t b) {
    return (std::isnan(scores[a]) && !std::isnan(scores[b])) || scores[a] > scores[b];
  };
  constexpr int64_t kFew = 64;  // where that sorts in place of partitioning
  if (count * kFew <= n)
    std::partial_sort(order.begin(), order.begin() + count, order.end(), better);
  else
    std::nth_element(order.begin(), order.begin() + count - 1, order.end(), better);
  std::sort(order.begin(), order.begin() + count);
  std::copy_n(order.begin(), count, best);
}

/// Rows that see chosen positions, their keys and values gathered into blocks of their own.
struct Gathered {
  std::vector<std::byte*> blocks;  // of all rows, one after the other
  std::vector<Segment> segments;   // a row each
};

int64_t cache_floats(const CacheLayout& layout) {
  return kCacheBlock * layout.kv_heads * (layout.key_dim + layout.value_dim);
}

/// The gradient of the blocks that were gathered goes to those they came from; record_append_cache says how both lie.
void record_gather(Tape& tape, const CacheLayout& layout, const Segment& from, std::vector<int32_t> positions,
                   std::vector<std::byte*> to) {
  tape.record({}, [layout, blocks = std::vector<std::byte*>(from.blocks.begin(), from.blocks.end()),
                   positions = std::move(positions), to = std::move(to)](Reverse& back) {
    const kernels::VectorKernels& kernels = back.context().kernels.vector;
    const int64_t kd = layout.key_dim, vd = layout.value_dim;
    for (int64_t i = 0; i < std::ssize(positions); ++i) {
      const int64_t position = positions[static_cast<size_t>(i)];
      float* given = back.outside(to[static_cast<size_t>(i / kCacheBlock)], cache_floats(layout));
      float* into = back.outside(blocks[static_cast<size_t>(position / kCacheBlock)], cache_floats(layout));
      for (int64_t h = 0; h < layout.kv_heads; ++h) {
        const int64_t keys = h * kCacheBlock * (kd + vd), values = keys + kCacheBlock * kd;
        const int64_t a = i % kCacheBlock, b = position % kCacheBlock;
        kernels.add_scaled(given + keys + a * kd, 1, into + keys + b * kd, kd);
        kernels.add_scaled(given + values + a * vd, 1, into + values + b * vd, vd);
        std::fill_n(given + keys + a * kd, kd, 0.0f), std::fill_n(given + values + a * vd, vd, 0.0f);
      }
    }
  });
}

/// Rows [begin, end) of what was chosen.
Gathered gather(Context& context, const CacheLayout& layout, const Segment& segment, const ChosenPositions& chosen,
                int64_t begin, int64_t end) {
  Gathered gathered;
  const int64_t each = blocks_for(chosen.count), bytes = layout.block_bytes();
  const int64_t floats = (bytes + 63) / 64 * 16;  // blocks begin on cache lines
  float* const memory = context.tape ? context.tape->keep((end - begin) * each, floats).data
                                     : context.arena.matrix((end - begin) * each, floats).data;
  for (int64_t b = 0; b < (end - begin) * each; ++b)
    gathered.blocks.push_back(reinterpret_cast<std::byte*>(memory + b * floats));
  for_rows(context, end - begin, chosen.count * bytes / kCacheBlock, [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; ++r) {
      const std::span<const int32_t> positions = chosen.of(begin + r);
      for (int64_t i = 0; i < chosen.count; ++i) {
        const int64_t position = positions[static_cast<size_t>(i)];
        copy_slot(layout, segment.blocks[static_cast<size_t>(position / kCacheBlock)], position % kCacheBlock,
                  gathered.blocks[static_cast<size_t>(r * each + i / kCacheBlock)], i % kCacheBlock);
      }
    }
  });
  for (int64_t r = 0; r < end - begin; ++r) {
    const auto blocks = std::span(gathered.blocks).subspan(static_cast<size_t>(r * each), static_cast<size_t>(each));
    gathered.segments.push_back({chosen.first_row + begin + r, 1, chosen.count - 1, blocks});
    if (!context.tape) continue;
    const std::span<const int32_t> positions = chosen.of(begin + r);
    record_gather(*context.tape, layout, segment, {positions.begin(), positions.end()}, {blocks.begin(), blocks.end()});
  }
  return gathered;
}

}  // namespace

void append_index(Context& context, const IndexCache& cache, tensor::ConstMatrix k, std::span<const Segment> segments) {
  require(k.cols == cache.layout.key_dim, "append_index", "keys of {}, expected {}", k.cols, cache.layout.key_dim);
  refuse_tape(context, "append_index");
  for (const Segment& segment : segments)
    for (int64_t r = 0; r < segment.rows; ++r) {
      const int64_t position = segment.first_position + r;
      require(position / kCacheBlock < std::ssize(segment.blocks), "append_index", "position {} in {} blocks", position,
              segment.blocks.size());
      const float* const key = k.row(segment.first_row + r);
      context.kernels.attention.append(cache.layout.dtype, key, k.stride, key, k.stride, position % kCacheBlock, 1,
                                       cache.layout.key_dim, 0,
                                       segment.blocks[static_cast<size_t>(position / kCacheBlock)] + cache.offset);
    }
}

ChosenPositions choose_positions(Context& context, const IndexCache& cache, tensor::ConstMatrix q,
                                 tensor::ConstMatrix weights, float scale, int64_t top_k, const Segment& segment) {
  const int64_t d = cache.layout.key_dim, heads = weights.cols;
  require(q.cols == heads * d && q.stride == q.cols && top_k > 0, "choose_positions",
          "queries [{}, {}] of {} heads of {}, {} positions", q.rows, q.cols, heads, d, top_k);
  refuse_tape(context, "choose_positions");
  const int64_t skipped = std::clamp<int64_t>(top_k - segment.first_position, 0, segment.rows);
  ChosenPositions chosen{segment.first_row + skipped, top_k, {}};
  const int64_t rows = segment.rows - skipped, end = segment.first_position + segment.rows;
  if (rows == 0) return chosen;

  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix keys = context.arena.matrix(end, d);
  for_rows(context, blocks_for(end), d * kCacheBlock, [&](int64_t begin, int64_t until) {
    std::vector<float> columns(static_cast<size_t>(d * kCacheBlock));
    for (int64_t b = begin; b < until; ++b)
      decode_keys(cache.layout, segment.blocks[static_cast<size_t>(b)] + cache.offset, columns.data(),
                  keys.row_range(b * kCacheBlock, std::min(end, (b + 1) * kCacheBlock)));
  });
  const tensor::Weight of_keys(reinterpret_cast<const std::byte*>(keys.data), DType::f32, end, d);
  chosen.positions.resize(static_cast<size_t>(rows * top_k));
  Context exact = context;
  exact.precision = Precision::f32, exact.observer = nullptr;
  const int64_t tile = std::max<int64_t>(1, kScores / (heads * end));
  for (int64_t first = 0; first < rows; first += tile) {
    const tensor::ArenaScope of_tile(context.arena);
    const int64_t count = std::min(tile, rows - first), row = chosen.first_row + first;
    const tensor::Matrix products = context.arena.matrix(count * heads, end);
    matmul(exact, {q.row(row), count * heads, d}, of_keys, nullptr, products);
    for_rows(context, count, heads * end, [&](int64_t begin, int64_t until) {
      std::vector<float> scores;
      std::vector<int32_t> order;
      for (int64_t r = begin; r < until; ++r) {
        const int64_t seen = segment.first_position + skipped + first + r + 1;
        // Behind a sequence's first piece each row is chosen for as if it were alone in its step.
        const int64_t considered = segment.first_position > 0 ? seen : end;
        scores.assign(static_cast<size_t>(considered), -std::numeric_limits<float>::infinity());
        std::fill_n(scores.begin(), seen, 0.0f);
        for (int64_t h = 0; h < heads; ++h) {
          const float weight = weights.row(row + r)[h];
          const float* const product = products.row(r * heads + h);
          for (int64_t j = 0; j < seen; ++j)
            scores[static_cast<size_t>(j)] += weight * std::max(product[j] * scale, 0.0f);
        }
        take_best(scores.data(), considered, top_k, order, chosen.positions.data() + (first + r) * top_k);
      }
    });
  }
  return chosen;
}

void attention_at(Context& context, const AttentionShape& shape, tensor::ConstMatrix q,
                  std::span<const Segment> segments, std::span<const ChosenPositions> chosen, tensor::Matrix out) {
  require(segments.size() == chosen.size(), "attention_at", "{} segments, positions of {}", segments.size(),
          chosen.size());
  std::vector<Segment> whole;
  for (size_t i = 0; i < segments.size(); ++i) {
    Segment before = segments[i];
    before.rows -= chosen[i].rows();
    require(before.rows >= 0 && (chosen[i].rows() == 0 || chosen[i].first_row == before.first_row + before.rows),
            "attention_at", "positions of {} rows from {} on, of {} from {} on", chosen[i].rows(), chosen[i].first_row,
            segments[i].rows, segments[i].first_row);
    if (before.rows > 0) whole.push_back(before);
  }
  if (!whole.empty()) attention(context, shape, q, whole, out);
  for (size_t i = 0; i < segments.size(); ++i) {
    if (chosen[i].rows() == 0) continue;
    const int64_t row_bytes = blocks_for(chosen[i].count) * shape.layout.block_bytes();
    const int64_t step = std::max<int64_t>(1, kGathered / row_bytes);
    for (int64_t begin = 0; begin < chosen[i].rows(); begin += step) {
      const tensor::ArenaScope scratch(context.arena);
      const Gathered rows =
          gather(context, shape.layout, segments[i], chosen[i], begin, std::min(begin + step, chosen[i].rows()));
      attention(context, shape, q, rows.segments, out);
    }
  }
}

}  // namespace coterie::ops
