#include "ops/attention.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "base/error.h"
#include "ops/gradients.h"
#include "ops/row_share.h"
#include "ops/rows.h"

namespace coterie::ops {

namespace {

using base::require;
using kernels::AttentionChunk;
using kernels::kAttentionChunk;
using kernels::kChunkBlocks;

/// Query rows of a tile: enough for the keys and values of a chunk, once widened to f32, to be used many times while
/// they are in the second-level cache; and tokens of a tile, which differ in what they see. Zen 4, f16, 512 tokens at
/// depth 3584 for 32 over 4 heads: 84 GFLOP/s with 64 rows, 91 with 128 (peak 117); at depth 0 with 16 over 16 heads:
/// 73 with 64 tokens, 68 with 128, 67 with 32.
constexpr int64_t kTileRows = 128;
constexpr int64_t kTileTokens = 64;
/// Multiply-adds that pay for starting the pool.
constexpr int64_t kParallelWork = 1 << 17;

/// Some tokens of a segment × some heads of one KV head, over chunks [chunk_begin, chunk_end). A task with `partial`
/// leaves each chunk's result there, to be merged later; one without covers all of its chunks and writes to out.
struct Task {
  const Segment* segment;
  int64_t token, tokens;         // of the segment
  int64_t kv_head, head, heads;  // query heads [head, head + heads), all of kv_head's group
  int64_t chunk_begin, chunk_end;
  float* partial;  // [chunk_end - chunk_begin][result_floats]
  int64_t work;

  int64_t rows() const { return tokens * heads; }
};

void check_layout(const CacheLayout& layout, std::string_view where) {
  require(layout.kv_heads > 0 && layout.key_dim > 0 && layout.value_dim > 0, where, "a cache of {} heads × ({} + {})",
          layout.kv_heads, layout.key_dim, layout.value_dim);
  require(kernels::is_cache_type(layout.dtype), where, "a cache of {}; f32, f16, bf16 or q8_0 are",
          tensor::name(layout.dtype));
}

void check_segment(const Segment& segment, int64_t batch_rows, std::string_view where) {
  require(segment.first_row >= 0 && segment.rows >= 0 && segment.first_row + segment.rows <= batch_rows, where,
          "rows [{}, {}) of a batch of {}", segment.first_row, segment.first_row + segment.rows, batch_rows);
  const int64_t positions = segment.first_position + segment.rows;
  const int64_t blocks = static_cast<int64_t>(segment.blocks.size());
  require(segment.first_position >= 0 && positions <= blocks * kCacheBlock, where,
          "{} positions in {} cache blocks of {}", positions, blocks, kCacheBlock);
}

/// Everything a call holds; methods run on the workers.
class Attention {
 public:
  /// `heads`: those that are computed here.
  Attention(Context& context, const AttentionShape& shape, tensor::ConstMatrix q, tensor::Matrix out, RowRange heads)
      : context_(context), kernels_(context.kernels.attention), shape_(shape), q_(q), out_(out), own_(heads) {
    const CacheLayout& layout = shape.layout;
    group_ = shape.heads / layout.kv_heads;
    head_tile_ = std::min(group_, kTileRows);
    token_tile_ = std::min(kTileRows / head_tile_, kTileTokens);
    wide_cache_ = layout.dtype == tensor::DType::f32;
  }

  void run(std::span<const Segment> segments) {
    const tensor::ArenaScope scope(context_.arena);
    plan(segments);
    if (task_count_ == 0) return;
    const int64_t threads = total_work_ < kParallelWork ? 1 : context_.pool.threads();
    if (threads > 1 && task_count_ < 4 * threads) split_tasks();
    const int64_t scratch = scratch_floats();
    float* const memory = context_.arena.take<float>(threads * scratch);
    if (threads == 1) {
      for (int64_t i = 0; i < task_count_; ++i) execute(tasks_[i], i + 1, memory);
    } else {
      context_.pool.each(task_count_,
                         [&](int64_t i, int worker) { execute(tasks_[i], i + threads, memory + worker * scratch); });
    }
    if (whole_count_ > 0) {
      context_.pool.each(whole_count_, [&](int64_t i, int worker) { join(wholes_[i], memory + worker * scratch); });
    }
  }

 private:
  /// Floats of a tile's result: max, sum and out of each row.
  int64_t result_floats(int64_t rows) const { return rows * (2 + shape_.layout.value_dim); }

  /// Pieces of scratch start on cache lines.
  static int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }

  int64_t scratch_floats() const {
    const CacheLayout& layout = shape_.layout;
    const int64_t rows = head_tile_ * token_tile_;
    return padded(rows * layout.key_dim) + padded(rows * kernels::kScoreStride) + 2 * padded(result_floats(rows)) +
           2 * padded(token_tile_) + (wide_cache_ ? 0 : padded(kAttentionChunk * (layout.key_dim + layout.value_dim)));
  }

  void plan(std::span<const Segment> segments) {
    const int64_t head_tiles = (group_ + head_tile_ - 1) / head_tile_;
    int64_t capacity = 0;
    for (const Segment& segment : segments) {
      capacity += (segment.rows + token_tile_ - 1) / token_tile_ * shape_.layout.kv_heads * head_tiles;
    }
    tasks_ = context_.arena.take<Task>(capacity);
    for (const Segment& segment : segments) {
      for (int64_t t = 0; t < segment.rows; t += token_tile_) {
        Task task{};
        task.segment = &segment;
        task.token = t, task.tokens = std::min(token_tile_, segment.rows - t);
        const int64_t begin = shape_.first_seen(segment.first_position + t);
        const int64_t end = segment.first_position + t + task.tokens;
        task.chunk_begin = begin / kAttentionChunk;
        task.chunk_end = (end + kAttentionChunk - 1) / kAttentionChunk;
        for (int64_t kv = 0; kv < shape_.layout.kv_heads; ++kv) {
          for (int64_t h = 0; h < group_; h += head_tile_) {
            const int64_t last = std::min(kv * group_ + std::min(h + head_tile_, group_), own_.end);
            task.kv_head = kv, task.head = std::max(kv * group_ + h, own_.begin), task.heads = last - task.head;
            if (task.heads <= 0) continue;
            task.work = task.rows() * (end - begin) * (shape_.layout.key_dim + shape_.layout.value_dim);
            total_work_ += task.work;
            tasks_[task_count_++] = task;
          }
        }
      }
    }
    // Longest first, so that no worker is left with a long one at the end.
    std::sort(tasks_, tasks_ + task_count_, [](const Task& a, const Task& b) {
      return std::tie(b.work, a.kv_head, a.head, a.segment, a.token) <
             std::tie(a.work, b.kv_head, b.head, b.segment, b.token);
    });
  }

  /// Few tiles, many positions (a decode step at depth): a task for each chunk, whose results are merged afterwards,
  /// in the order in which an unsplit task merges them.
  void split_tasks() {
    wholes_ = tasks_, whole_count_ = task_count_;
    int64_t count = 0;
    for (int64_t i = 0; i < whole_count_; ++i) count += wholes_[i].chunk_end - wholes_[i].chunk_begin;
    if (count == whole_count_) {
      whole_count_ = 0;  // one chunk each: nothing to split
      return;
    }
    tasks_ = context_.arena.take<Task>(count), task_count_ = 0;
    for (int64_t i = 0; i < whole_count_; ++i) {
      Task& whole = wholes_[i];
      const int64_t size = result_floats(whole.rows());
      whole.partial = context_.arena.take<float>((whole.chunk_end - whole.chunk_begin) * size);
      for (int64_t c = whole.chunk_begin; c < whole.chunk_end; ++c) {
        Task task = whole;
        task.chunk_begin = c, task.chunk_end = c + 1;
        task.partial = whole.partial + (c - whole.chunk_begin) * size;
        tasks_[task_count_++] = task;
      }
    }
  }

  /// Where this head's keys of `count` blocks of the sequence lie.
  void locate(const Task& task, int64_t first_block, int64_t count, const std::byte** blocks) const {
    for (int64_t b = 0; b < count; ++b)
      blocks[b] =
          task.segment->blocks[static_cast<size_t>(first_block + b)] + task.kv_head * shape_.layout.head_bytes();
  }

  /// The same of the first blocks that chunk `c` of a task reads; how many there are.
  int64_t locate_first(const Task& task, int64_t c, const std::byte** blocks) const {
    const int64_t seen = shape_.first_seen(task.segment->first_position + task.token) / kCacheBlock;
    const int64_t begin = std::max(c * kChunkBlocks, seen);
    const int64_t end = std::min(c * kChunkBlocks + kChunkBlocks, std::ssize(task.segment->blocks));
    const int64_t count = std::clamp<int64_t>(end - begin, 0, kernels::kNextBlocks);
    locate(task, begin, count, blocks);
    return count;
  }

  /// `next`: the task this worker will probably take afterwards.
  void execute(const Task& task, int64_t next, float* scratch) const {
    const CacheLayout& layout = shape_.layout;
    const Segment& segment = *task.segment;
    const int64_t rows = task.rows();
    const auto take = [&scratch](int64_t floats) {
      float* const taken = scratch;
      scratch += padded(floats);
      return taken;
    };
    AttentionChunk chunk;
    float* const queries = take(rows * layout.key_dim);
    for (int64_t t = 0; t < task.tokens; ++t) {
      const float* q = q_.row(segment.first_row + task.token + t) + task.head * layout.key_dim;
      kernels_.pack_queries(q, layout.key_dim, task.heads, t * task.heads, rows, layout.key_dim, queries);
    }
    chunk.queries = queries;
    chunk.tokens = task.tokens, chunk.heads = task.heads;
    chunk.key_dim = layout.key_dim, chunk.value_dim = layout.value_dim;
    chunk.scale = shape_.scale, chunk.softcap = shape_.softcap;
    chunk.dtype = layout.dtype;
    chunk.scores = take(rows * kernels::kScoreStride);
    // Widening a chunk pays once three passes or more would each widen it again.
    float* const decoded = wide_cache_ ? nullptr : take(kAttentionChunk * (layout.key_dim + layout.value_dim));
    chunk.decoded = rows > 2 * kernels_.row_tile ? decoded : nullptr;
    float* const result = task.partial ? task.partial : take(result_floats(rows));
    chunk.max = result, chunk.sum = result + rows, chunk.out = result + 2 * rows;
    float* const running = task.partial ? nullptr : take(result_floats(rows));
    int32_t* const first = reinterpret_cast<int32_t*>(take(task.tokens));
    int32_t* const last = reinterpret_cast<int32_t*>(take(task.tokens));
    chunk.first = first, chunk.last = last;
    const std::byte* blocks[kChunkBlocks];
    chunk.blocks = blocks;
    const std::byte* ahead[kernels::kNextBlocks];
    chunk.next = ahead;

    if (running) clear(running, rows);
    for (int64_t c = task.chunk_begin; c < task.chunk_end; ++c) {
      const auto within = [c](int64_t position) {
        return static_cast<int32_t>(std::clamp<int64_t>(position - c * kAttentionChunk, 0, kAttentionChunk));
      };
      for (int64_t t = 0; t < task.tokens; ++t) {
        const int64_t position = segment.first_position + task.token + t;
        first[t] = within(shape_.first_seen(position)), last[t] = within(position + 1);
      }
      const int64_t begin = first[0] / kCacheBlock, end = (last[task.tokens - 1] + kCacheBlock - 1) / kCacheBlock;
      locate(task, c * kChunkBlocks + begin, end - begin, blocks + begin);
      chunk.next_count = 0;
      if (c + 1 < task.chunk_end)
        chunk.next_count = locate_first(task, c + 1, ahead);
      else if (next < task_count_)
        chunk.next_count = locate_first(tasks_[next], tasks_[next].chunk_begin, ahead);
      kernels_.chunk(chunk);
      if (running) merge(result, rows, running);
    }
    if (running) finish(task, running);
  }

  /// Merges the chunks of a split task.
  void join(const Task& whole, float* running) const {
    const int64_t rows = whole.rows();
    clear(running, rows);
    for (int64_t c = 0; c < whole.chunk_end - whole.chunk_begin; ++c) {
      merge(whole.partial + c * result_floats(rows), rows, running);
    }
    finish(whole, running);
  }

  void clear(float* running, int64_t rows) const {
    std::fill_n(running, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(running + rows, result_floats(rows) - rows, 0.0f);
  }

  void merge(const float* result, int64_t rows, float* running) const {
    const int64_t width = shape_.layout.value_dim;
    for (int64_t r = 0; r < rows; ++r) {
      kernels_.merge(result[r], result[rows + r], result + 2 * rows + r * width, running + r, running + rows + r,
                     running + 2 * rows + r * width, width);
    }
  }

  void finish(const Task& task, const float* running) const {
    const int64_t width = shape_.layout.value_dim, rows = task.rows();
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t token = task.segment->first_row + task.token + r / task.heads, head = task.head + r % task.heads;
      kernels_.finish(running[r], running[rows + r], running + 2 * rows + r * width,
                      shape_.sinks ? shape_.sinks + head : nullptr, out_.row(token) + head * width, width);
    }
  }

  Context& context_;
  const kernels::AttentionKernels& kernels_;
  const AttentionShape& shape_;
  tensor::ConstMatrix q_;
  tensor::Matrix out_;
  RowRange own_;
  int64_t group_, head_tile_, token_tile_;
  bool wide_cache_;
  Task* tasks_ = nullptr;   // what runs
  Task* wholes_ = nullptr;  // the tiles whose chunks run apart
  int64_t task_count_ = 0, whole_count_ = 0, total_work_ = 0;
};

}  // namespace

void append_cache(Context& context, const CacheLayout& layout, tensor::ConstMatrix k, tensor::ConstMatrix v,
                  std::span<const Segment> segments) {
  check_layout(layout, "append_cache");
  require(
      k.rows == v.rows && k.cols == layout.kv_heads * layout.key_dim && v.cols == layout.kv_heads * layout.value_dim,
      "append_cache", "k [{}, {}] and v [{}, {}] for {} heads × ({} + {})", k.rows, k.cols, v.rows, v.cols,
      layout.kv_heads, layout.key_dim, layout.value_dim);
  if (context.tape) record_append_cache(*context.tape, layout, k, v, segments);
  for (const Segment& segment : segments) {
    check_segment(segment, k.rows, "append_cache");
    // Rows are cut at block bounds; a block is one task's.
    const int64_t begin = segment.first_position, end = begin + segment.rows;
    const int64_t first_block = begin / kCacheBlock, blocks = (end + kCacheBlock - 1) / kCacheBlock - first_block;
    if (segment.rows == 0) continue;
    for_rows(context, blocks, kCacheBlock * (k.cols + v.cols), [&](int64_t block_begin, int64_t block_end) {
      for (int64_t b = first_block + block_begin; b < first_block + block_end; ++b) {
        const int64_t from = std::max(begin, b * kCacheBlock), to = std::min(end, (b + 1) * kCacheBlock);
        const int64_t row = segment.first_row + from - begin;
        for (int64_t h = 0; h < layout.kv_heads; ++h) {
          context.kernels.attention.append(layout.dtype, k.row(row) + h * layout.key_dim, k.stride,
                                           v.row(row) + h * layout.value_dim, v.stride, from - b * kCacheBlock,
                                           to - from, layout.key_dim, layout.value_dim,
                                           segment.blocks[static_cast<size_t>(b)] + h * layout.head_bytes());
        }
      }
    });
  }
}

void attention(Context& context, const AttentionShape& shape, tensor::ConstMatrix q, std::span<const Segment> segments,
               tensor::Matrix out) {
  const CacheLayout& layout = shape.layout;
  check_layout(layout, "attention");
  require(shape.heads > 0 && shape.heads % layout.kv_heads == 0, "attention", "{} heads share {} KV heads", shape.heads,
          layout.kv_heads);
  require(q.cols == shape.heads * layout.key_dim && out.cols == shape.heads * layout.value_dim && q.rows == out.rows,
          "attention", "q [{}, {}], out [{}, {}] for {} heads × ({}, {})", q.rows, q.cols, out.rows, out.cols,
          shape.heads, layout.key_dim, layout.value_dim);
  require(shape.window >= 0 && shape.chunk >= 0 && shape.softcap >= 0, "attention", "window {}, chunk {}, softcap {}",
          shape.window, shape.chunk, shape.softcap);
  for (const Segment& segment : segments) check_segment(segment, q.rows, "attention");
  if (context.tape) record_attention(*context.tape, shape, q, segments, out);
  int64_t work = 0;
  for (const Segment& segment : segments)
    work += segment.rows * (segment.first_position + segment.rows - shape.first_seen(segment.first_position)) *
            shape.heads * (layout.key_dim + layout.value_dim);
  RowShare* const share = context.rows && context.rows->divides_work(work / 4, shape.heads) ? context.rows : nullptr;
  if (!share) return Attention(context, shape, q, out, {0, shape.heads}).run(segments);
  // Whole groups where there are enough of them: then a rank reads its own keys and values alone.
  const int64_t group = shape.heads / layout.kv_heads, unit = layout.kv_heads >= share->ranks ? group : 1;
  Attention(context, shape, q, out, share->own(shape.heads, unit)).run(segments);
  const RowShare::Divided divided{out, unit * layout.value_dim};
  share->gather({&divided, 1});
}

}  // namespace coterie::ops
