// One token by q4_k, q5_k and q6_k: every block in the order in which it lies in memory, across the ends of rows. Only
// so can the hardware prefetcher follow; eight rows side by side, as tiles of tokens want them, cost a fifth
// of the bandwidth (docs/design/matmul.md, with why the 32-value formats stay with panels). A block leaves eight
// partial sums and its head; eight blocks later, when those are in the cache, they are finished together. The integers
// and the f32 steps are those of the panel kernels.
//
// A Stream class says
//   kMins           whether there are mins
//   kHead           bytes that finish() needs of a block
//   block(w, x, head)     the partial sums of a block; its head goes to `head`
//   finish(heads, x, c, terms)    d * dx, and for mins dmin * dx and Σ min * Σ x, of chunk c
#pragma once
#include "kernels/matmul/block_kernel.inl.h"

inline constexpr int64_t kStreamBlocks = 64;        // of a row, at most: what a panel's terms take of the first cache
inline constexpr int64_t kStreamAheadBytes = 8192;  // 4 kB and 16 kB measured slower; the first cache (t0) far slower

/// What all rows share: x's scales and sums, for the eight blocks of each chunk. Chunk c holds blocks 8c … 8c + 7 of
/// eight rows in a line, so lane i is block (8c + i) % blocks of x.
struct StreamX {
  const ActivationBlock256* blocks;
  int64_t count;
  alignas(32) float d[8 * kStreamBlocks];
  alignas(32) int32_t sums[kStreamBlocks][4][8];  // pairs of sum32, for formats with mins

  StreamX(const std::byte* x, int64_t row_blocks, bool mins)
      : blocks(reinterpret_cast<const ActivationBlock256*>(x)), count(row_blocks) {
    int64_t b = 0;
    for (int64_t c = 0; c < count; ++c) {
      const ActivationBlock256* of_lane[8];
      for (int i = 0; i < 8; ++i) {
        of_lane[i] = blocks + b;
        d[8 * c + i] = blocks[b].d;
        b = b + 1 < count ? b + 1 : 0;
      }
      if (!mins) continue;
      Vi quad[4], columns[4];
      for (int i = 0; i < 4; ++i)
        quad[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(sums_of(of_lane[i]))),
                                          load16(sums_of(of_lane[i + 4])), 1);
      transpose_quads(quad, columns);
      for (int p = 0; p < 4; ++p) store_int(sums[c][p], columns[p]);
    }
  }
  static const std::byte* sums_of(const ActivationBlock256* x) { return reinterpret_cast<const std::byte*>(x->sum32); }
};

/// The terms of a panel's f32 steps, block after block: d * dx, Σ scale Σ q x, dmin * dx, Σ min * Σ x.
struct StreamTerms {
  alignas(64) float at[4][8 * kStreamBlocks];
};

/// What to fetch: the stream some kilobytes on, then what the task says comes next.
struct StreamAhead {
  const std::byte *at, *end, *next;

  explicit StreamAhead(const MatmulTask& task)
      : at(task.weights + kStreamAheadBytes), end(task.weights + task.rows * task.row_stride), next(task.next) {}
  COTERIE_INLINE void step(int64_t bytes) {
    at += bytes;
    if (at < end || !next) return;
    at = next + (at - end), next = nullptr;
  }
  /// Lines of this chunk that block r of it prefetches.
  template <int r, int kChunkBytes>
  COTERIE_INLINE void fetch() const {
    constexpr int kLines = (kChunkBytes + 63) / 64;
    COTERIE_UNROLL
    for (int i = kLines * r / 8; i < kLines * (r + 1) / 8; ++i) __builtin_prefetch(at + 64 * i, 0, 2);
  }
};

template <class Format>
struct StreamK4 {
  static constexpr int kBytes = Format::kBytes, kHead = 16, kCodes = kBytes - 128;
  static constexpr bool kMins = true, kFifthBit = Format::kMaxCode == 31;
  Vi nibble, bit, scale_low, scale_top, pattern[8];

  COTERIE_INLINE StreamK4() : nibble(set_int(0x0f0f0f0f)), bit(set_int(0x10101010)) {
    // Scales of sub-blocks 0 to 3 are the low six bits of bytes 4 to 7; of the others, bytes 12 to 15 have the low four
    // bits and bytes 4 to 7 the top two.
    scale_low = _mm256_setr_epi32(0, 0x3f3f3f3f, 0, 0x0f0f0f0f, 0, 0x3f3f3f3f, 0, 0x0f0f0f0f);
    scale_top = _mm256_setr_epi32(0, 0x30303030, 0, 0, 0, 0x30303030, 0, 0);
    COTERIE_UNROLL
    for (int s = 0; s < 8; ++s) {
      pattern[s] = _mm256_set1_epi16(static_cast<int16_t>(0x8000 | (s < 4 ? 4 + s : 8 + s)));
      hold(pattern[s]);
    }
  }

  COTERIE_INLINE Vi block(const std::byte* w, const ActivationBlock256& x, std::byte* head) const {
    Vi packed = broadcast16(w);
    hold(packed);
    _mm_store_si128(reinterpret_cast<__m128i*>(head), _mm256_castsi256_si128(packed));
    Vi scales = bits_or(bits_and(packed, scale_low), _mm256_slli_si256(bits_and(shift<-2>(packed), scale_top), 8));
    hold(scales);
    Vi high = zero_int(), sum = zero_int();
    if constexpr (kFifthBit) high = load_codes(w + 16);
    add_pair<0>(w, x, scales, high, sum), add_pair<1>(w, x, scales, high, sum);
    add_pair<2>(w, x, scales, high, sum), add_pair<3>(w, x, scales, high, sum);
    return sum;
  }
  template <int pair>
  COTERIE_INLINE void add_pair(const std::byte* w, const ActivationBlock256& x, Vi scales, Vi high, Vi& sum) const {
    const Vi codes = load_codes(w + kCodes + 32 * pair);
    Vi low = bits_and(codes, nibble), upper = bits_and(shift<-4>(codes), nibble);
    if constexpr (kFifthBit) {
      low = bits_or(low, bits_and(shift<4 - 2 * pair>(high), bit));
      upper = bits_or(upper, bits_and(shift<3 - 2 * pair>(high), bit));
    }
    add_weighed(sum, products(low, load_bytes(x.q + 64 * pair)), shuffle_bytes(scales, pattern[2 * pair]));
    add_weighed(sum, products(upper, load_bytes(x.q + 64 * pair + 32)), shuffle_bytes(scales, pattern[2 * pair + 1]));
  }

  static COTERIE_INLINE void finish(const std::byte* heads, const StreamX& x, int64_t c, StreamTerms& terms) {
    Vi column[4];
    load_columns({heads, kHead}, 0, column);
    const Vf dx = load(x.d + 8 * c);
    store(terms.at[0] + 8 * c, mul(half_to_float(column[0]), dx));
    store(terms.at[2] + 8 * c, mul(half_to_float(shift<-16>(column[0])), dx));
    const Vi first = bits_and(column[2], set_int(0x3f3f3f3f));
    const Vi last = bits_or(masked<-4>(column[3], 0x0f0f0f0f), masked<-2>(column[2], 0x30303030));
    Vi sum = dot2(zero_int(), spread_pair<0, false>(first), load_int(x.sums[c][0]));
    sum = dot2(sum, spread_pair<1, false>(first), load_int(x.sums[c][1]));
    sum = dot2(sum, spread_pair<0, false>(last), load_int(x.sums[c][2]));
    sum = dot2(sum, spread_pair<1, false>(last), load_int(x.sums[c][3]));
    store(terms.at[3] + 8 * c, to_float(sum));
  }
};

struct StreamQ6K {
  static constexpr int kBytes = Q6K::kBytes, kHead = 2;
  static constexpr bool kMins = false;
  RowDotsQ6K<1> dots;

  COTERIE_INLINE Vi block(const std::byte* w, const ActivationBlock256& x, std::byte* head) {
    __builtin_memcpy(head, w + 208, 2);
    dots.prepare(0, &x);
    Vi sum[1];
    dots.row(w, 0, sum);
    return sum[0];
  }
  static COTERIE_INLINE void finish(const std::byte* heads, const StreamX& x, int64_t c, StreamTerms& terms) {
    const Vf d = _mm256_cvtph_ps(load16(heads));
    store(terms.at[0] + 8 * c, mul(d, load(x.d + 8 * c)));
  }
};

/// What the blocks of a chunk left to be finished.
template <class Stream>
struct StreamChunk {
  alignas(64) int32_t sums[8][8];
  alignas(64) std::byte heads[8 * Stream::kHead];
};

template <class Stream>
COTERIE_INLINE void finish_chunk(const StreamChunk<Stream>& chunk, const StreamX& x, int64_t c, StreamTerms& terms) {
  Stream::finish(chunk.heads, x, c, terms);
  const auto& s = chunk.sums;
  const Vi first = sum_four(load_int(s[0]), load_int(s[1]), load_int(s[2]), load_int(s[3]));
  const Vi last = sum_four(load_int(s[4]), load_int(s[5]), load_int(s[6]), load_int(s[7]));
  store(terms.at[1] + 8 * c, to_float(sum_each(first, last)));
}

/// The f32 steps of eight rows, each over its blocks in order.
template <bool kMins>
COTERIE_INLINE Vf add_terms(const StreamTerms& terms, int64_t blocks) {
  alignas(32) float y[8] = {};
  constexpr int64_t kNext = 8 * kStreamBlocks;
  const float* at = terms.at[0];
  for (int64_t b = 0; b < blocks; ++b, ++at) {
    COTERIE_UNROLL
    for (int r = 0; r < 8; ++r) {
      const float* term = at + r * blocks;
      y[r] = __builtin_fmaf(term[0], term[kNext], y[r]);
      if constexpr (kMins) y[r] = __builtin_fmaf(-term[2 * kNext], term[3 * kNext], y[r]);
    }
  }
  return load(y);
}

template <class Stream, int r = 0>
COTERIE_INLINE void stream_chunk(Stream& stream, const std::byte* w, const StreamX& x, int64_t& b,
                                 const StreamAhead& ahead, StreamChunk<Stream>& out) {
  ahead.fetch<r, 8 * Stream::kBytes>();
  store_int(out.sums[r], stream.block(w + r * Stream::kBytes, x.blocks[b], out.heads + r * Stream::kHead));
  b = b + 1 == x.count ? 0 : b + 1;
  if constexpr (r + 1 < 8) stream_chunk<Stream, r + 1>(stream, w, x, b, ahead, out);
}

template <class Stream>
bool run_stream256(const MatmulTask& task) {
  const int64_t blocks = task.cols / 256, row_bytes = blocks * Stream::kBytes;
  if (blocks < 1 || blocks > kStreamBlocks || task.row_stride != row_bytes) return false;
  const StreamX x(task.x[0], blocks, Stream::kMins);
  StreamAhead ahead(task);
  Stream stream;
  StreamTerms terms;
  StreamChunk<Stream> chunks[2];
  for (int64_t first = 0; first < task.rows; first += kWidth) {
    const std::byte* w = panel_rows(task, first, row_bytes).data;
    int64_t b = 0;
    for (int64_t c = 0; c < blocks; ++c, w += 8 * Stream::kBytes) {
      stream_chunk(stream, w, x, b, ahead, chunks[c % 2]);
      ahead.step(8 * Stream::kBytes);
      read_again(chunks);
      // One chunk late, when its small stores have left the processor's queue and can be loaded as vectors.
      if (c > 0) finish_chunk(chunks[1 - c % 2], x, c - 1, terms);
    }
    finish_chunk(chunks[(blocks - 1) % 2], x, blocks - 1, terms);
    read_again(&terms);
    store_rows(task, 0, first, add_terms<Stream::kMins>(terms, blocks));
  }
  return true;
}
