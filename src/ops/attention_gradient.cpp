#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "ops/gradients.h"
#include "ops/products.h"

// The backward of attention computes the scores of a tile of queries again (Dao et al. 2022, "FlashAttention", section
// 3.1), so that memory grows with the length of a sequence and not with its square. Keys and values are read from the
// cache, which the caller must keep until then; their gradients go to memory of the tape's for each cache block, for
// each KV head [16][key_dim] and then [16][value_dim], and from there to the rows that append_cache was given. So a
// sequence may be evaluated in pieces under one tape. What lies in the cache from before is a constant.
namespace coterie::ops {

using base::require;

namespace {

constexpr int64_t kTile = 64;  // queries of one head

int64_t block_floats(const CacheLayout& layout) {
  return kCacheBlock * layout.kv_heads * (layout.key_dim + layout.value_dim);
}

struct OwnedSegment {
  int64_t first_row, rows, first_position;
  std::vector<std::byte*> blocks;
};

std::vector<OwnedSegment> own(std::span<const Segment> segments) {
  std::vector<OwnedSegment> result;
  for (const Segment& s : segments)
    result.push_back({s.first_row, s.rows, s.first_position, {s.blocks.begin(), s.blocks.end()}});
  return result;
}

void check_cache(const CacheLayout& layout) {
  if (layout.dtype != tensor::DType::f32)
    base::fail(base::ErrorKind::unsupported, "attention",
               "the backward needs keys and values in f32, the cache holds {}", tensor::name(layout.dtype));
}

/// One KV head of a sequence in the backward pass. Matrices are in scratch of one worker.
class Head {
 public:
  Head(const Context& context, const AttentionShape& shape, const OwnedSegment& segment, int64_t kv_head, float* memory)
      : context_(context),
        shape_(shape),
        segment_(segment),
        kv_head_(kv_head),
        length_(segment.first_position + segment.rows) {
    const int64_t kd = shape.layout.key_dim, vd = shape.layout.value_dim;
    const auto take = [&memory](int64_t rows, int64_t cols) {
      const Matrix m(memory, rows, cols);
      memory += (rows * cols + 15) / 16 * 16;
      return m;
    };
    keys_ = take(length_, kd), keys_transposed_ = take(kd, length_), values_transposed_ = take(vd, length_);
    dkeys_ = take(length_, kd), dvalues_ = take(length_, vd);
    scores_ = take(kTile, length_ + 1), dscores_ = take(kTile, length_ + 1);
    scratch_ = memory;
  }

  static int64_t floats(const Context& context, const AttentionShape& shape, int64_t length) {
    const int64_t kd = shape.layout.key_dim, vd = shape.layout.value_dim;
    return length * (3 * kd + 2 * vd) + 2 * kTile * (length + 1) + 7 * 16 + context.kernels.gemm.scratch_floats;
  }

  void load() {
    const CacheLayout& layout = shape_.layout;
    const int64_t kd = layout.key_dim, vd = layout.value_dim;
    // A block is a few kB: read across, written along.
    for (int64_t p = 0; p < length_; p += kCacheBlock) {
      const auto* keys = reinterpret_cast<const float*>(segment_.blocks[static_cast<size_t>(p / kCacheBlock)] +
                                                        kv_head_ * layout.head_bytes());
      const float* const values = keys + kCacheBlock * kd;
      const int64_t n = std::min(kCacheBlock, length_ - p);
      for (int64_t d = 0; d < kd; ++d) std::copy_n(keys + d * kCacheBlock, n, keys_transposed_.row(d) + p);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < kd; ++d) keys_.row(p + i)[d] = keys[d * kCacheBlock + i];
      for (int64_t d = 0; d < vd; ++d)
        for (int64_t i = 0; i < n; ++i) values_transposed_.row(d)[p + i] = values[i * vd + d];
    }
    std::fill_n(dkeys_.data, length_ * kd, 0.0f);
    std::fill_n(dvalues_.data, length_ * vd, 0.0f);
  }

  /// Tokens [begin, begin + count) of the segment, query head `head`. q, dout, dq: its columns of the batch.
  void tile(int64_t begin, int64_t count, int64_t head, ConstMatrix q, ConstMatrix dout, Matrix dq, double* dsink) {
    const int64_t first = segment_.first_position + begin, row = segment_.first_row + begin;
    const auto first_seen = [&](int64_t p) { return shape_.first_seen(p); };
    const int64_t low = first_seen(first), seen = first + count - low;
    const Matrix s(scores_.data, count, seen, length_ + 1), ds(dscores_.data, count, seen, length_ + 1);
    const ConstMatrix queries = q.row_range(row, row + count), out = dout.row_range(row, row + count);
    multiply(queries, false, keys_transposed_.col_range(low, low + seen), s, false);
    multiply(out, false, values_transposed_.col_range(low, low + seen), ds, false);
    for (int64_t t = 0; t < count; ++t)
      soften(s.row(t), ds.row(t), first_seen(first + t) - low, first + t + 1 - low, seen, head, dsink);
    multiply(s, true, out, dvalues_.row_range(low, low + seen), true);
    multiply(ds, true, queries, dkeys_.row_range(low, low + seen), true);
    multiply(ds, false, keys_.row_range(low, low + seen), dq.row_range(row, row + count), true);
  }

  /// Adds what was gathered to the blocks' gradients.
  void add_to(std::span<float* const> blocks) const {
    const int64_t kd = shape_.layout.key_dim, vd = shape_.layout.value_dim;
    for (int64_t p = 0; p < length_; ++p) {
      float* head = blocks[static_cast<size_t>(p / kCacheBlock)] + kv_head_ * kCacheBlock * (kd + vd);
      const int64_t slot = p % kCacheBlock;
      context_.kernels.vector.add_scaled(dkeys_.row(p), 1, head + slot * kd, kd);
      context_.kernels.vector.add_scaled(dvalues_.row(p), 1, head + kCacheBlock * kd + slot * vd, vd);
    }
  }

 private:
  // A row's q·k become the weights p, and dp the gradient of q·k:
  //   ds = p (dp - Σ p dp), and through s = cap tanh(scale q·k / cap), or s = scale q·k.
  void soften(float* s, float* ds, int64_t begin, int64_t end, int64_t seen, int64_t head, double* dsink) const {
    const kernels::VectorKernels& kernels = context_.kernels.vector;
    const int64_t n = end - begin;
    float *const p = s + begin, *const d = ds + begin;
    const float cap = shape_.softcap;
    kernels.scale(p, shape_.scale, n);
    if (cap > 0) {
      kernels.softcap(p, cap, n);
      slopes_.assign(p, p + n);
      for (float& v : slopes_) v = 1 - v / cap * (v / cap);
    }
    if (shape_.sinks) {
      // One more logit, in the column after the last, which is free.
      const float kept = p[n];
      p[n] = shape_.sinks[head];
      kernels.softmax(p, n + 1);
      sink_weight_ = p[n];
      p[n] = kept;
    } else {
      kernels.softmax(p, n);
    }
    const float along = context_.kernels.training.softmax_back(p, d, shape_.scale, n);
    if (shape_.sinks) dsink[head] -= static_cast<double>(sink_weight_) * static_cast<double>(along);
    if (cap > 0)
      for (int64_t i = 0; i < n; ++i) d[i] *= slopes_[static_cast<size_t>(i)];
    std::fill(s, s + begin, 0.0f), std::fill(s + end, s + seen, 0.0f);
    std::fill(ds, ds + begin, 0.0f), std::fill(ds + end, ds + seen, 0.0f);
  }

  void multiply(ConstMatrix a, bool by_depth, ConstMatrix b, Matrix c, bool accumulate) const {
    kernels::GemmTask task;
    task.rows = c.rows, task.cols = c.cols, task.depth = by_depth ? a.rows : a.cols;
    task.a = a.data, task.a_stride = a.stride, task.a_by_depth = by_depth;
    task.b = b.data, task.b_stride = b.stride;
    task.c = c.data, task.c_stride = c.stride, task.accumulate = accumulate, task.scratch = scratch_;
    context_.kernels.gemm.run(task);
  }

  const Context& context_;
  const AttentionShape& shape_;
  const OwnedSegment& segment_;
  int64_t kv_head_, length_;
  Matrix keys_, keys_transposed_, values_transposed_, dkeys_, dvalues_, scores_, dscores_;
  mutable std::vector<float> slopes_;
  mutable float sink_weight_ = 0;
  float* scratch_;
};

}  // namespace

void record_append_cache(Tape& tape, const CacheLayout& layout, ConstMatrix k, ConstMatrix v,
                         std::span<const Segment> segments) {
  check_cache(layout);
  tape.record({}, [layout, k, v, segments = own(segments)](Reverse& back) {
    const Matrix dk = back.gradient(k), dv = back.gradient(v);
    const int64_t kd = layout.key_dim, vd = layout.value_dim;
    const kernels::VectorKernels& kernels = back.context().kernels.vector;
    for (const OwnedSegment& s : segments) {
      for (int64_t t = 0; t < s.rows; ++t) {
        const int64_t p = s.first_position + t, slot = p % kCacheBlock;
        float* block = back.outside(s.blocks[static_cast<size_t>(p / kCacheBlock)], block_floats(layout));
        for (int64_t h = 0; h < layout.kv_heads; ++h) {
          float* const dkey = block + h * kCacheBlock * (kd + vd) + slot * kd;
          float* const dvalue = block + h * kCacheBlock * (kd + vd) + kCacheBlock * kd + slot * vd;
          kernels.add_scaled(dkey, 1, dk.row(s.first_row + t) + h * kd, kd);
          kernels.add_scaled(dvalue, 1, dv.row(s.first_row + t) + h * vd, vd);
          std::fill_n(dkey, kd, 0.0f), std::fill_n(dvalue, vd, 0.0f);
        }
      }
    }
  });
}

void record_attention(Tape& tape, const AttentionShape& shape, ConstMatrix q, std::span<const Segment> segments,
                      Matrix out) {
  check_cache(shape.layout);
  const ConstMatrix saved = tape.save(q);
  tape.record({out}, [shape, q, saved, segments = own(segments), out](Reverse& back) {
    Context& context = back.context();
    const CacheLayout& layout = shape.layout;
    const int64_t group = shape.heads / layout.kv_heads, kd = layout.key_dim, vd = layout.value_dim;
    const Matrix dq = back.gradient(q), dout = back.gradient(out);
    std::vector<std::vector<float*>> blocks;
    int64_t longest = 0;
    for (const OwnedSegment& s : segments) {
      const int64_t length = s.rows == 0 ? 0 : s.first_position + s.rows;
      longest = std::max(longest, length);
      std::vector<float*>& of = blocks.emplace_back();
      for (int64_t b = 0; b * kCacheBlock < length; ++b)
        of.push_back(back.outside(s.blocks[static_cast<size_t>(b)], block_floats(layout)));
    }
    const auto count = static_cast<int64_t>(segments.size()) * layout.kv_heads;
    const int64_t scratch = (Head::floats(context, shape, longest) + 31) / 16 * 16;
    float* const memory = context.arena.take<float>(context.pool.threads() * scratch);
    double* const dsinks = context.arena.take<double>(count * shape.heads);
    std::fill_n(dsinks, count * shape.heads, 0.0);
    context.pool.each(count, [&](int64_t task, int worker) {
      const size_t i = static_cast<size_t>(task / layout.kv_heads);
      const OwnedSegment& s = segments[i];
      if (s.rows == 0) return;
      const int64_t kv = task % layout.kv_heads;
      Head head(context, shape, s, kv, memory + worker * scratch);
      head.load();
      for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
        for (int64_t t = 0; t < s.rows; t += kTile)
          head.tile(t, std::min(kTile, s.rows - t), h, saved.col_range(h * kd, (h + 1) * kd),
                    ConstMatrix(dout).col_range(h * vd, (h + 1) * vd), dq.col_range(h * kd, (h + 1) * kd),
                    dsinks + task * shape.heads);
      head.add_to(blocks[i]);
    });
    if (float* dsink = back.gradient(shape.sinks))
      for (int64_t task = 0; task < count; ++task)
        for (int64_t h = 0; h < shape.heads; ++h) dsink[h] += static_cast<float>(dsinks[task * shape.heads + h]);
    for (const OwnedSegment& s : segments) clear(context, dout.row_range(s.first_row, s.first_row + s.rows));
  });
}

}  // namespace coterie::ops
