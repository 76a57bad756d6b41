#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/attention.h"
#include "ops/context.h"
#include "tensor/dtype.h"
#include "tensor/view.h"

namespace coterie::ops {

/// Positions a block of the KV cache holds. Fixed: it is the lane count that kernels are written for.
inline constexpr int64_t kCacheBlock = kernels::kCacheBlock;

/// How one layer's keys and values lie in a block of 16 positions, for each KV head in turn:
///   keys   [key_dim][16]    position fastest: 16 scores come from one broadcast multiply-add a dimension, no
///                           horizontal sums, and a decode step reads the block once, in order
///   values [16][value_dim]  dimension fastest: the same for the weighted sum
/// so that prefill and decode reduce in the same order (over key_dim, then over positions). Of type q8_0 both are codes
/// of 8 bits with scales behind them (kernels/body/attention_cache.inl.h), 9 bits a value.
struct CacheLayout {
  int64_t kv_heads = 0, key_dim = 0, value_dim = 0;
  tensor::DType dtype = tensor::DType::f16;  // kernels::is_cache_type

  int64_t head_bytes() const { return kernels::cache_head_bytes(dtype, key_dim, value_dim); }
  int64_t block_bytes() const { return kv_heads * head_bytes(); }
};

/// The tokens of one sequence in a batch: `rows` rows from `first_row` on, at positions first_position … The cache
/// holds positions [0, first_position + rows) once append_cache has run; block b of `blocks` holds positions 16b …
/// 16b+15.
struct Segment {
  int64_t first_row = 0, rows = 0;
  int64_t first_position = 0;
  std::span<std::byte* const> blocks;
};

struct AttentionShape {
  int64_t heads = 0;  // query heads, a multiple of layout.kv_heads (GQA)
  CacheLayout layout;
  float scale = 0;               // usually key_dim^-0.5
  int64_t window = 0;            // a token sees itself and the window-1 before it; 0 = all
  float softcap = 0;             // s = cap * tanh(s / cap); 0 = none (Gemma 2)
  const float* sinks = nullptr;  // [heads]: a logit that takes part in the softmax and adds nothing (gpt-oss)
  int64_t chunk = 0;             // a token sees no position before the last multiple of it (Llama 4); 0 = all

  /// The first position that the token at `position` sees.
  int64_t first_seen(int64_t position) const {
    const int64_t begin = chunk > 0 ? position / chunk * chunk : 0;
    return window > 0 && position - window + 1 > begin ? position - window + 1 : begin;
  }
};

/// Writes k [N, kv_heads*key_dim] and v [N, kv_heads*value_dim] (after rope) into the blocks.
void append_cache(Context& context, const CacheLayout& layout, tensor::ConstMatrix k, tensor::ConstMatrix v,
                  std::span<const Segment> segments);

/// out[n] = softmax(scale * q[n]·keys + mask) · values, causal. q [N, heads*key_dim], out [N, heads*value_dim].
/// Bits depend neither on the batch, nor on how a prompt was cut, nor on threads.
void attention(Context& context, const AttentionShape& shape, tensor::ConstMatrix q, std::span<const Segment> segments,
               tensor::Matrix out);

}  // namespace coterie::ops
