#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace coterie::kernels {

/// Positions a block of the KV cache holds: keys [key_dim][16], then values [16][value_dim], for each KV head.
inline constexpr int64_t kCacheBlock = 16;
/// Dimensions of a position that share a scale where the cache holds codes of 8 bits (q8_0).
inline constexpr int64_t kCacheGroup = 32;
constexpr int64_t cache_groups(int64_t dims) { return (dims + kCacheGroup - 1) / kCacheGroup; }
/// Bytes of the keys, or the values, of one head in a block: codes, and scales of f32.
constexpr int64_t cache_code_bytes(int64_t dims) {
  return kCacheBlock * (dims + cache_groups(dims) * static_cast<int64_t>(sizeof(float)));
}
/// Bytes of one head in a block.
inline int64_t cache_head_bytes(tensor::DType dtype, int64_t key_dim, int64_t value_dim) {
  if (dtype == tensor::DType::q8_0) return cache_code_bytes(key_dim) + cache_code_bytes(value_dim);
  return kCacheBlock * (key_dim + value_dim) * tensor::info(dtype).block_bytes;
}
/// Whether a cache can hold keys and values so: f32, f16, bf16 or q8_0.
constexpr bool is_cache_type(tensor::DType dtype) {
  return dtype == tensor::DType::f32 || dtype == tensor::DType::f16 || dtype == tensor::DType::bf16 ||
         dtype == tensor::DType::q8_0;
}
/// The softmax is taken over chunks of so many positions, aligned at multiples, that are then merged in ascending
/// order: what is added to what depends on absolute positions alone.
inline constexpr int64_t kAttentionChunk = 256;
inline constexpr int64_t kChunkBlocks = kAttentionChunk / kCacheBlock;
inline constexpr int64_t kNextBlocks = 4;  // of what comes after a chunk that its kernel prefetches
/// Floats from one row of scores to the next; not a power of two, or the rows would share cache sets.
inline constexpr int64_t kScoreStride = kAttentionChunk + kCacheBlock;

/// A tile of query rows against one chunk of one KV head's cache. Row = token * heads + head: all rows of a token see
/// the same positions.
struct AttentionChunk {
  const float* queries = nullptr;  // as pack_queries leaves them
  int64_t tokens = 0, heads = 0;
  int64_t key_dim = 0, value_dim = 0;
  float scale = 0, softcap = 0;              // softcap 0 = none
  tensor::DType dtype = tensor::DType::f32;  // of the cache: is_cache_type
  const std::byte* const* blocks = nullptr;  // [kChunkBlocks] this head's keys; only blocks with visible positions are
                                             // read; what lies at positions nobody sees may be anything
  const std::byte* const* next = nullptr;    // [next_count <= kNextBlocks] keys that this thread will
                                             // probably read after them: a hint
  int64_t next_count = 0;
  const int32_t* first = nullptr;  // [tokens] visible positions [first, last), relative to the chunk;
  const int32_t* last = nullptr;   // neither may fall from token to token; first >= last: none
  float* scores = nullptr;         // [tokens * heads][kScoreStride] scratch
  float* decoded = nullptr;  // [kAttentionChunk * (key_dim + value_dim)] scratch, or null. With it a narrow chunk is
                             // widened once for all rows; without, at each use. The same bits.
  float* max = nullptr;      // [tokens * heads] results: largest score (-inf: none seen),
  float* sum = nullptr;      // sum of exp(score - max),
  float* out = nullptr;      // [tokens * heads][value_dim] and sum of exp(score - max) * value
};

struct AttentionKernels {
  /// Query rows that share one pass over the keys: tiles should hold a multiple of it.
  int64_t row_tile = 1;
  /// Rows of `key_dim` floats, `stride` floats apart, to packed[rows * key_dim], starting at row `at` of `total`;
  /// a tile is packed by one or several calls that together cover [0, total).
  void (*pack_queries)(const float* q, int64_t stride, int64_t rows, int64_t at, int64_t total, int64_t key_dim,
                       float* packed) noexcept = nullptr;
  void (*chunk)(const AttentionChunk& chunk) noexcept = nullptr;
  /// Adds a row's result for the next chunk to its running (max, sum, out[value_dim]), which starts as (-inf, 0, 0).
  void (*merge)(float chunk_max, float chunk_sum, const float* chunk_out, float* max, float* sum, float* out,
                int64_t value_dim) noexcept = nullptr;
  /// target = out / sum; `sink`, where given, is one more logit whose value is zero.
  void (*finish)(float max, float sum, const float* out, const float* sink, float* target,
                 int64_t value_dim) noexcept = nullptr;
  /// Writes `count` positions from slot `slot` on of one head of one block: k [count][key_dim], v [count][value_dim].
  void (*append)(tensor::DType dtype, const float* k, int64_t k_stride, const float* v, int64_t v_stride, int64_t slot,
                 int64_t count, int64_t key_dim, int64_t value_dim, std::byte* head) noexcept = nullptr;
};

}  // namespace coterie::kernels
