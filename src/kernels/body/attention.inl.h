// Attention of a tile of query rows over one chunk of the cache. Included inside namespace coterie::kernels::<isa>,
// after math.inl.h and attention_cache.inl.h.
//
// Each score is one chain of multiply-adds over key_dim, each output one chain over the visible positions, in ascending
// order; tile shapes only choose which chains run side by side. Positions a row does not see never enter a sum, not
// even times zero: a cache may hold anything there, NaN included.

inline constexpr int64_t kBlockVectors = kCacheBlock / kWidth;

// Rows that share a load, and accumulators a tile holds: half of the registers or more, the rest for keys or values.
inline constexpr int64_t kRowTile = kRegisters >= 32 ? 8 : kWidth >= 8 ? 6 : 4;
inline constexpr int64_t kAccumulators = kRegisters >= 32 ? 16 : kWidth >= 8 ? 12 : 8;

/// Rows as evenly as tiles allow: 8 are 4 and 4, not 6 and 2. Of two rows a tile is half as fast as of four.
constexpr int64_t row_tiles(int64_t rows) { return (rows + kRowTile - 1) / kRowTile; }
constexpr int64_t row_begin(int64_t tile, int64_t rows) { return rows * tile / row_tiles(rows); }

/// The largest power of two up to n and `most`: steps of blocks and widths of heads are mostly multiples of it, and
/// what is left over by other tiles is too little for the processor's multiply-adds to be busy.
constexpr int64_t power_of_two(int64_t n, int64_t most) {
  int64_t power = 1;
  while (2 * power <= n && 2 * power <= most) power *= 2;
  return power;
}
/// Blocks of keys that a tile of `rows` rows covers.
constexpr int64_t score_blocks(int64_t rows) { return power_of_two(kAccumulators / (rows * kBlockVectors), 4); }
/// Blocks after which the loops change rows: 4 blocks of f32 keys or values of 128 dimensions fill a first-level cache.
inline constexpr int64_t kStepBlocks = kNextBlocks;
inline constexpr int64_t kStepPositions = kStepBlocks * kCacheBlock;
/// A chunk's blocks as pointers. So that there always is a next one to prefetch, those past the last repeat it
/// or, of the values, are the keys that come after this chunk.
template <typename Element>
struct Blocks {
  const Element* at[kChunkBlocks + kStepBlocks] = {};
};

/// Vectors of value dimensions that a tile of `rows` rows covers.
constexpr int64_t value_vectors(int64_t rows) { return power_of_two(kAccumulators / rows, 8); }

inline void pack_queries(const float* q, int64_t stride, int64_t rows, int64_t at, int64_t total, int64_t key_dim,
                         float* packed) noexcept {
  // Tile after tile, each [key_dim][rows of the tile].
  for (int64_t tile = at * row_tiles(total) / total; tile < row_tiles(total); ++tile) {
    const int64_t begin = row_begin(tile, total), end = row_begin(tile + 1, total), width = end - begin;
    if (begin >= at + rows) break;
    for (int64_t r = begin < at ? at : begin; r < end && r < at + rows; ++r) {
      float* target = packed + begin * key_dim + (r - begin);
      const float* source = q + (r - at) * stride;
      for (int64_t d = 0; d < key_dim; ++d) target[d * width] = source[d];
    }
  }
}

/// Keys come straight from memory here, in pieces too short for the hardware prefetcher, so tiles prefetch what lies a
/// step ahead: keys while there are scores to compute, values while those are added up. Both at once would leave the
/// memory idle half of the time, and so would all lines by the first tile of rows: kShares tiles (0: none prefetches)
/// take turns, line by line, each as evenly over its multiply-adds as it can.
template <typename Element>
inline constexpr bool kFetches = sizeof(Element) < sizeof(float);
inline constexpr int64_t kLineBytes = 64;

template <int64_t kShares>
struct Shares {
  static constexpr int64_t kCount = kShares;
};
/// Calls body with the number of tiles that take turns in prefetching, 0 for a tile that does not.
template <typename Element, typename Body>
inline void with_shares(int64_t tile, int64_t tiles, const Body& body) {
  if constexpr (kFetches<Element>) {
    if (tiles == 1) return body(Shares<1>{});
    if (tile < 2) return body(Shares<2>{});
  }
  body(Shares<0>{});
}

template <typename Key, int64_t kRows, int64_t kVectors>
COTERIE_INLINE void add_dimension(const float* packed, const Key* const* block, int64_t key_dim, int64_t d,
                                  Vf (&sum)[kRows][kVectors]) {
  Vf key[kVectors];
  COTERIE_UNROLL
  for (int64_t j = 0; j < kVectors; ++j) {
    key[j] = key_at(block[j / kBlockVectors], key_dim, d, j % kBlockVectors * kWidth);
  }
  COTERIE_UNROLL
  for (int64_t r = 0; r < kRows; ++r) {
    const Vf q = set(packed[d * kRows + r]);
    COTERIE_UNROLL
    for (int64_t j = 0; j < kVectors; ++j) sum[r][j] = fma(q, key[j], sum[r][j]);
  }
}

template <typename Key, int64_t kRows, int64_t kBlocks, int64_t kShares>
inline void score_tile(const float* packed, const Key* const* keys, const Key* const* ahead, int64_t share,
                       int64_t key_dim, float* scores) {
  constexpr int64_t kVectors = kBlocks * kBlockVectors;
  Vf sum[kRows][kVectors];
  COTERIE_UNROLL
  for (int64_t r = 0; r < kRows; ++r) {
    COTERIE_UNROLL
    for (int64_t j = 0; j < kVectors; ++j) sum[r][j] = zero();
  }
  constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(Key));
  // Dimensions in whose keys a tile prefetches one line.
  constexpr int64_t kTurn = kShares > 0 ? kLine * kShares / kCacheBlock : 4;
  const Key* block[kBlocks];
  const Key* next[kBlocks] = {};
  COTERIE_UNROLL
  for (int64_t b = 0; b < kBlocks; ++b) block[b] = keys[b], next[b] = ahead[b] + share * kLine;
  int64_t d = 0;
  for (; d + kTurn <= key_dim; d += kTurn) {
    COTERIE_UNROLL
    for (int64_t b = 0; kShares > 0 && b < kBlocks; ++b) __builtin_prefetch(next[b] + d * kCacheBlock, 0, 2);
    COTERIE_UNROLL
    for (int64_t i = 0; i < kTurn; ++i) add_dimension(packed, block, key_dim, d + i, sum);
  }
  for (; d < key_dim; ++d) add_dimension(packed, block, key_dim, d, sum);
  COTERIE_UNROLL
  for (int64_t r = 0; r < kRows; ++r) {
    COTERIE_UNROLL
    for (int64_t j = 0; j < kVectors; ++j) store(scores + r * kScoreStride + j * kWidth, sum[r][j]);
  }
}

template <typename Key, int64_t kRows, int64_t kShares>
inline void score_rows(const float* packed, const Key* const* keys, const Key* const* ahead, int64_t share,
                       int64_t blocks, int64_t key_dim, float* scores) {
  constexpr int64_t kBlocks = score_blocks(kRows);
  int64_t b = 0;
  for (; b + kBlocks <= blocks; b += kBlocks) {
    score_tile<Key, kRows, kBlocks, kShares>(packed, keys + b, ahead + b, share, key_dim, scores + b * kCacheBlock);
  }
  for (; b < blocks; ++b)
    score_tile<Key, kRows, 1, kShares>(packed, keys + b, ahead + b, share, key_dim, scores + b * kCacheBlock);
}

template <typename Key, int64_t kShares, int64_t kRows = kRowTile>
inline void score_group(int64_t rows, const float* packed, const Key* const* keys, const Key* const* ahead,
                        int64_t share, int64_t blocks, int64_t key_dim, float* scores) {
  if (rows == kRows) return score_rows<Key, kRows, kShares>(packed, keys, ahead, share, blocks, key_dim, scores);
  if constexpr (kRows > 1)
    score_group<Key, kShares, kRows - 1>(rows, packed, keys, ahead, share, blocks, key_dim, scores);
}

/// `weights` of the rows at one position, whose values are number `slot` of their block.
template <bool kPartial, typename Value, int64_t kRows, int64_t kVectors>
COTERIE_INLINE void add_position(const float* weights, const Value* values, int64_t value_dim, int64_t slot,
                                 int64_t column, int64_t count, Vf (&sum)[kRows][kVectors]) {
  Vf value[kVectors];
  COTERIE_UNROLL
  for (int64_t j = 0; j < kVectors; ++j)
    value[j] = value_at<kPartial>(values, value_dim, slot, column + j * kWidth, count);
  COTERIE_UNROLL
  for (int64_t r = 0; r < kRows; ++r) {
    const Vf weight = set(weights[r * kScoreStride]);
    COTERIE_UNROLL
    for (int64_t j = 0; j < kVectors; ++j) sum[r][j] = fma(weight, value[j], sum[r][j]);
  }
}

/// Dimensions [column, column + kVectors * kWidth) of kRows rows, or, when partial, the `count` < kWidth after column.
template <typename Value, int64_t kRows, int64_t kVectors, bool kPartial, int64_t kShares>
inline void value_tile(const float* weights, const Value* const* values, [[maybe_unused]] int64_t share,
                       int64_t value_dim, int64_t column, int64_t count, int64_t first, int64_t last, float* out) {
  Vf sum[kRows][kVectors];
  COTERIE_UNROLL
  for (int64_t r = 0; r < kRows; ++r) {
    COTERIE_UNROLL
    for (int64_t j = 0; j < kVectors; ++j) {
      const float* p = out + r * value_dim + column + j * kWidth;
      sum[r][j] = kPartial ? load_first(p, count) : load(p);
    }
  }
  // Columns and tiles that share a line take turns, position by position.
  constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(Value)), kTile = kVectors * kWidth;
  constexpr int64_t kTurns = kShares > 0 ? (kTile < kLine ? kLine / kTile : 1) * kShares : 4;
  [[maybe_unused]] const int64_t turn = column % kLine / kTile * kShares + share;
  for (int64_t position = first; position < last;) {
    const int64_t b = position / kCacheBlock;
    const int64_t end = (b + 1) * kCacheBlock < last ? (b + 1) * kCacheBlock : last;
    [[maybe_unused]] const Value* next = values[b + kStepBlocks] + column;
    for (; position + kTurns <= end; position += kTurns) {
      const int64_t slot = position - b * kCacheBlock;
      if constexpr (kShares > 0) {
        const Value* const line = next + (slot + turn) * value_dim;
        COTERIE_UNROLL
        for (int64_t i = 0; i < kTile; i += kLine) __builtin_prefetch(line + i, 0, 2);
      }
      COTERIE_UNROLL
      for (int64_t i = 0; i < kTurns; ++i)
        add_position<kPartial>(weights + position + i, values[b], value_dim, slot + i, column, count, sum);
    }
    for (; position < end; ++position)
      add_position<kPartial>(weights + position, values[b], value_dim, position - b * kCacheBlock, column, count, sum);
  }
  COTERIE_UNROLL
  for (int64_t r = 0; r < kRows; ++r) {
    COTERIE_UNROLL
    for (int64_t j = 0; j < kVectors; ++j) {
      float* p = out + r * value_dim + column + j * kWidth;
      if constexpr (kPartial)
        store_first(p, sum[r][j], count);
      else
        store(p, sum[r][j]);
    }
  }
}

template <typename Value, int64_t kRows, int64_t kShares>
inline void value_rows(const float* weights, const Value* const* values, int64_t share, int64_t value_dim,
                       int64_t first, int64_t last, float* out) {
  constexpr int64_t kVectors = value_vectors(kRows);
  int64_t c = 0;
  for (; c + kVectors * kWidth <= value_dim; c += kVectors * kWidth) {
    value_tile<Value, kRows, kVectors, false, kShares>(weights, values, share, value_dim, c, 0, first, last, out);
  }
  for (; c + kWidth <= value_dim; c += kWidth) {
    value_tile<Value, kRows, 1, false, kShares>(weights, values, share, value_dim, c, 0, first, last, out);
  }
  if (c < value_dim) {
    value_tile<Value, kRows, 1, true, kShares>(weights, values, share, value_dim, c, value_dim - c, first, last, out);
  }
}

template <typename Value, int64_t kShares, int64_t kRows = kRowTile>
inline void value_group(int64_t rows, const float* weights, const Value* const* values, int64_t share,
                        int64_t value_dim, int64_t first, int64_t last, float* out) {
  if (rows == kRows) return value_rows<Value, kRows, kShares>(weights, values, share, value_dim, first, last, out);
  if constexpr (kRows > 1)
    value_group<Value, kShares, kRows - 1>(rows, weights, values, share, value_dim, first, last, out);
}

/// Adds positions [first, last), which all `rows` rows see, to their outputs.
template <typename Value>
inline void add_values(const float* weights, const Value* const* values, int64_t rows, int64_t value_dim, int64_t first,
                       int64_t last, float* out) {
  while (first < last) {
    const int64_t step = (first / kStepPositions + 1) * kStepPositions, end = step < last ? step : last;
    for (int64_t tile = 0; tile < row_tiles(rows); ++tile) {
      const int64_t r = row_begin(tile, rows), n = row_begin(tile + 1, rows) - r;
      with_shares<Value>(tile, row_tiles(rows), [&](auto shares) {
        value_group<Value, shares.kCount>(n, weights + r * kScoreStride, values, tile, value_dim, first, end,
                                          out + r * value_dim);
      });
    }
    first = end;
  }
}

/// Scales the scores of blocks [begin, end), whose positions [first, last) the row sees; the others become -inf.
/// Largest values are kept in `m`.
template <bool kMasked>
COTERIE_INLINE void scale_scores(float* scores, int64_t begin, int64_t end, int64_t first, int64_t last, float scale,
                                 Vf (&m)[kBlockVectors]) {
  for (int64_t i = begin; i < end; i += kCacheBlock) {
    COTERIE_UNROLL
    for (int64_t j = 0; j < kBlockVectors; ++j) {
      const int64_t at = i + j * kWidth;
      Vf s = mul(load(scores + at), set(scale));
      if constexpr (kMasked) s = select(mask_range(first - at, last - at), s, set(-__builtin_inff()));
      store(scores + at, s);
      m[j] = max(s, m[j]);
    }
  }
}

/// Turns a row of dot products into weights exp(score - max), exact zeros where it does not see.
inline void weigh(float* scores, int64_t first, int64_t last, float scale, float softcap, float* max_out,
                  float* sum_out) {
  const int64_t begin = first / kCacheBlock * kCacheBlock;
  if (softcap != 0) {
    for (int64_t i = begin; i < last; i += kWidth)
      store(scores + i, mul(set(softcap), tanh(div(mul(load(scores + i), set(scale)), set(softcap)))));
    scale = 1;
  }
  Vf m[kBlockVectors], sum[kBlockVectors];
  COTERIE_UNROLL
  for (int64_t j = 0; j < kBlockVectors; ++j) m[j] = set(-__builtin_inff()), sum[j] = zero();
  // Blocks seen as a whole, and around them those of which a part is.
  const int64_t whole = (first + kCacheBlock - 1) / kCacheBlock * kCacheBlock, rest = last / kCacheBlock * kCacheBlock;
  if (whole < rest) {
    scale_scores<true>(scores, begin, whole, first, last, scale, m);
    scale_scores<false>(scores, whole, rest, first, last, scale, m);
    scale_scores<true>(scores, rest, last, first, last, scale, m);
  } else {
    scale_scores<true>(scores, begin, last, first, last, scale, m);
  }
  COTERIE_UNROLL
  for (int64_t j = 1; j < kBlockVectors; ++j) m[0] = max(m[j], m[0]);
  const float largest = reduce_max(m[0]);
  // All scores -inf: any finite maximum gives weights of zero instead of NaN.
  const Vf base = set(largest == -__builtin_inff() ? 0.0f : largest);
  for (int64_t i = begin; i < last; i += kCacheBlock) {
    COTERIE_UNROLL
    for (int64_t j = 0; j < kBlockVectors; ++j) {
      const Vf weight = exp(sub(load(scores + i + j * kWidth), base));
      store(scores + i + j * kWidth, weight);
      sum[j] = add(sum[j], weight);
    }
  }
  COTERIE_UNROLL
  for (int64_t j = 1; j < kBlockVectors; ++j) sum[0] = add(sum[0], sum[j]);
  *max_out = largest, *sum_out = reduce_add(sum[0]);
}

template <typename Element>
inline void chunk_over(const AttentionChunk& c, const Element* const* keys, const Element* const* values, int64_t begin,
                       int64_t end) {
  const int64_t rows = c.tokens * c.heads;
  const int64_t end_block = (end + kCacheBlock - 1) / kCacheBlock;
  for (int64_t b = begin / kCacheBlock; b < end_block; b += kStepBlocks) {
    const int64_t blocks = end_block - b < kStepBlocks ? end_block - b : kStepBlocks;
    const Element* const* ahead = b + kStepBlocks < end_block ? keys + b + kStepBlocks : values + begin / kCacheBlock;
    for (int64_t tile = 0; tile < row_tiles(rows); ++tile) {
      const int64_t r = row_begin(tile, rows), n = row_begin(tile + 1, rows) - r;
      const float* queries = c.queries + r * c.key_dim;
      float* scores = c.scores + r * kScoreStride + b * kCacheBlock;
      with_shares<Element>(tile, row_tiles(rows), [&](auto shares) {
        score_group<Element, shares.kCount>(n, queries, keys + b, ahead, tile, blocks, c.key_dim, scores);
      });
    }
  }
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t r = t * c.heads; r < (t + 1) * c.heads; ++r) {
      if (c.first[t] < c.last[t]) {
        weigh(c.scores + r * kScoreStride, c.first[t], c.last[t], c.scale, c.softcap, c.max + r, c.sum + r);
      } else {
        c.max[r] = -__builtin_inff(), c.sum[r] = 0;
      }
    }
  }
  for (int64_t i = 0; i < rows * c.value_dim; ++i) c.out[i] = 0;
  // Positions all tokens see go through the tile together; those before and after, token by token. A token's
  // positions still come in ascending order.
  const int64_t shared_first = c.first[c.tokens - 1], shared_last = c.last[0];
  const bool shared = shared_first < shared_last;
  for (int64_t t = 0; t < c.tokens; ++t) {
    const int64_t r = t * c.heads, last = shared ? shared_first : c.last[t];
    add_values(c.scores + r * kScoreStride, values, c.heads, c.value_dim, c.first[t], last, c.out + r * c.value_dim);
  }
  if (!shared) return;
  add_values(c.scores, values, rows, c.value_dim, shared_first, shared_last, c.out);
  // The triangle: as many tokens as make up a tile's rows share what the first of them sees.
  const int64_t together = c.heads < kRowTile ? kRowTile / c.heads : 1;
  for (int64_t t = 0; t < c.tokens; t += together) {
    const int64_t r = t * c.heads, n = c.tokens - t < together ? c.tokens - t : together, common = c.last[t];
    add_values(c.scores + r * kScoreStride, values, n * c.heads, c.value_dim, shared_last, common,
               c.out + r * c.value_dim);
    for (int64_t other = t + 1; other < t + n; ++other)
      add_values(c.scores + other * c.heads * kScoreStride, values, c.heads, c.value_dim, common, c.last[other],
                 c.out + other * c.heads * c.value_dim);
  }
}

template <typename Element>
inline void chunk_of(const AttentionChunk& c) {
  // Tokens ascend, so the first token's first and the last token's last bound what is seen.
  const int64_t begin = c.first[0], end = c.last[c.tokens - 1];
  const int64_t begin_block = begin / kCacheBlock, end_block = (end + kCacheBlock - 1) / kCacheBlock;
  const bool decode = c.decoded != nullptr && sizeof(Element) != sizeof(float);
  const int64_t size = kCacheBlock * (c.key_dim + c.value_dim);
  Blocks<Element> keys, values;
  Blocks<float> wide_keys, wide_values;
  for (int64_t b = begin_block; b < end_block + kStepBlocks; ++b) {
    keys.at[b] = reinterpret_cast<const Element*>(c.blocks[b < end_block ? b : end_block - 1]);
    values.at[b] = keys.at[b] + part_elements<Element>(c.key_dim);
    if (b >= end_block && b - end_block < c.next_count)
      values.at[b] = reinterpret_cast<const Element*>(c.next[b - end_block]);
  }
  for (int64_t b = begin_block; decode && b < end_block + kStepBlocks; ++b) {
    if (b < end_block) widen(keys.at[b], keys.at[b + 1], c.key_dim, c.value_dim, c.decoded + b * size);
    wide_keys.at[b] = c.decoded + (b < end_block ? b : end_block - 1) * size;
    wide_values.at[b] = wide_keys.at[b] + c.key_dim * kCacheBlock;
  }
  if (decode)
    chunk_over(c, wide_keys.at, wide_values.at, begin, end);
  else
    chunk_over(c, keys.at, values.at, begin, end);
}

inline void attention_chunk(const AttentionChunk& c) noexcept {
  switch (c.dtype) {
    case tensor::DType::f16: return chunk_of<Half>(c);
    case tensor::DType::bf16: return chunk_of<Bfloat>(c);
    case tensor::DType::q8_0: return chunk_of<Code>(c);
    default: return chunk_of<float>(c);
  }
}

COTERIE_INLINE float exp_of(float x) {
  float lanes[kWidth];
  store(lanes, exp(set(x)));
  return lanes[0];
}

inline void merge(float chunk_max, float chunk_sum, const float* chunk_out, float* max, float* sum, float* out,
                  int64_t value_dim) noexcept {
  const float larger = chunk_max > *max ? chunk_max : *max;
  if (larger == -__builtin_inff()) return;
  const float old_factor = exp_of(*max - larger), new_factor = exp_of(chunk_max - larger);
  const Vf a = set(old_factor), b = set(new_factor);
  int64_t i = 0;
  for (; i + kWidth <= value_dim; i += kWidth) store(out + i, fma(load(chunk_out + i), b, mul(load(out + i), a)));
  if (const int64_t n = value_dim - i; n > 0) {
    store_first(out + i, fma(load_first(chunk_out + i, n), b, mul(load_first(out + i, n), a)), n);
  }
  *max = larger;
  *sum = *sum * old_factor + chunk_sum * new_factor;
}

inline void finish(float max, float sum, const float* out, const float* sink, float* target,
                   int64_t value_dim) noexcept {
  float factor = 1;
  if (sink != nullptr) {
    const float larger = *sink > max ? *sink : max;
    factor = exp_of(max - larger);
    sum = sum * factor + exp_of(*sink - larger);
  }
  const Vf f = set(factor / sum);
  int64_t i = 0;
  for (; i + kWidth <= value_dim; i += kWidth) store(target + i, mul(load(out + i), f));
  if (const int64_t n = value_dim - i; n > 0) store_first(target + i, mul(load_first(out + i, n), f), n);
}

constinit const AttentionKernels attention_kernels = {kRowTile, pack_queries, attention_chunk, merge, finish, append};
