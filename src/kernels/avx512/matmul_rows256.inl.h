// One token by the hot formats: each row's codes as they lie in the file, without transposing rows into lanes, which
// pays only when its cost is shared by several tokens. Lanes of a register are sums of four products of one row;
// weighed as 16-bit pairs they leave 16 partial sums a row, and a tree adds those of 16 rows to 16 sums. All of it
// is exact, so the bits are those of the panel kernels. (Zen 4, weights in the second cache, bytes a cycle, panels ->
// rows: see docs/design/matmul.md.)
#pragma once
#include "kernels/matmul/blocks256.inl.h"

COTERIE_INLINE Vi load_bytes(const void* p) { return _mm512_loadu_si512(p); }
COTERIE_INLINE Vi join_halves(const int8_t* low, const int8_t* high) {
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low));
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)), 1);
}
COTERIE_INLINE Vi twice_32_bytes(const std::byte* p) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
/// Counts of a variable shift: `low` in the lower half, `high` in the upper.
COTERIE_INLINE Vi shift_counts(int low, int high) {
  return _mm512_inserti64x4(_mm512_set1_epi32(low), _mm256_set1_epi32(high), 1);
}

// Lane r of sum_each's result is the sum of all lanes of v[r]; by fours, so that not all 16 are held at once.
COTERIE_INLINE Vi sum_four(Vi v0, Vi v1, Vi v2, Vi v3) {
  const Vi a = add_int(_mm512_unpacklo_epi32(v0, v1), _mm512_unpackhi_epi32(v0, v1));
  const Vi b = add_int(_mm512_unpacklo_epi32(v2, v3), _mm512_unpackhi_epi32(v2, v3));
  return add_int(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}
COTERIE_INLINE Vi sum_each(const Vi (&fours)[4]) {
  const Vi c = add_int(_mm512_shuffle_i32x4(fours[0], fours[1], 0x44), _mm512_shuffle_i32x4(fours[0], fours[1], 0xee));
  const Vi d = add_int(_mm512_shuffle_i32x4(fours[2], fours[3], 0x44), _mm512_shuffle_i32x4(fours[2], fours[3], 0xee));
  return add_int(_mm512_shuffle_i32x4(c, d, 0x88), _mm512_shuffle_i32x4(c, d, 0xdd));
}

/// Sums of four products, those of `a` and `b` in turn by fours, times scales in 16 bits: below 2^15 each, as 4-bit to
/// 6-bit codes (signed, 32 off) times 127 times 4 are.
COTERIE_INLINE Vi weigh_dots(Vi sum, Vi a, Vi b, Vi scales) {
  return _mm512_dpwssd_epi32(sum, _mm512_packs_epi32(a, b), scales);
}

/// q4_k and q5_k: 64 bytes of codes hold values 128i + [0, 32), [64, 96) in their low nibbles, and the 32 after each of
/// these in their high ones.
template <class Format>
struct RowDotsK4 {
  static constexpr int kCodes = Format::kBytes - 128;
  static constexpr bool kFifthBit = Format::kMaxCode == 31;
  Vi x[4];
  Vi pattern[2];                    // bytes of the eight scales that the lanes of packed sums want, as 16-bit numbers
  alignas(64) uint64_t scales[16];  // of each row, one byte a sub-block
  Vi high_counts[4];

  COTERIE_INLINE RowDotsK4() {
    // Lanes 0, 1 (of 128 bits): four sums of sub-block 0, four of 1; lanes 2, 3: of 2 and 3. Then 4 … 7.
    const __m128i first = _mm_setr_epi8(0, -1, 0, -1, 0, -1, 0, -1, 1, -1, 1, -1, 1, -1, 1, -1);
    const __m256i low = _mm256_broadcastsi128_si256(first);
    const Vi both_halves =
        _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_add_epi8(low, _mm256_set1_epi16(2)), 1);
    pattern[0] = both_halves, pattern[1] = _mm512_add_epi8(both_halves, _mm512_set1_epi16(4));
    if constexpr (kFifthBit) {  // bit p of a byte to bit 4: p = 0, 2 and 1, 3 to the left, 4, 6 and 5, 7 to the right
      high_counts[0] = shift_counts(4, 2), high_counts[1] = shift_counts(3, 1);
      high_counts[2] = shift_counts(0, 2), high_counts[3] = shift_counts(1, 3);
    }
  }

  /// What all rows of a block share, and the scales of each; returns Σ min * Σ x.
  COTERIE_INLINE Vi begin(Rows block, const ActivationBlock256& activations, Vf& d, Vf& dmin) {
    const int8_t* q = activations.q;
    x[0] = join_halves(q, q + 64), x[1] = join_halves(q + 32, q + 96);
    x[2] = join_halves(q + 128, q + 192), x[3] = join_halves(q + 160, q + 224);
    Vi c[4];
    load_columns(block, 0, c);
    d = half_to_float(c[0]), dmin = half_to_float(shift<-16>(c[0]));
    const Vi low = masked<0>(c[1], 0x3f3f3f3f);
    const Vi high = and_or(c[3], set_int(0x0f0f0f0f), masked<-2>(c[1], 0x30303030));
    store_int(scales, _mm512_unpacklo_epi32(low, high)), store_int(scales + 8, _mm512_unpackhi_epi32(low, high));
    const Vi mins_low = masked<0>(c[2], 0x3f3f3f3f);
    const Vi mins_high = and_or(shift<-4>(c[3]), set_int(0x0f0f0f0f), masked<-2>(c[2], 0x30303030));
    Vi sum = dot2(zero_int(), spread_pair<0, false>(mins_low), broadcast4(activations.sum32));
    sum = dot2(sum, spread_pair<1, false>(mins_low), broadcast4(activations.sum32 + 2));
    sum = dot2(sum, spread_pair<0, false>(mins_high), broadcast4(activations.sum32 + 4));
    return dot2(sum, spread_pair<1, false>(mins_high), broadcast4(activations.sum32 + 6));
  }

  COTERIE_INLINE Vi row(const std::byte* block, int r) const {
    const Vi nibble = set_int(0x0f0f0f0f), bit = set_int(0x10101010);
    const Vi a = load_bytes(block + kCodes), b = load_bytes(block + kCodes + 64);
    Vi c[4] = {bits_and(a, nibble), bits_and(shift<-4>(a), nibble), bits_and(b, nibble),
               bits_and(shift<-4>(b), nibble)};
    if constexpr (kFifthBit) {
      const Vi high = twice_32_bytes(block + 16);
      c[0] = and_or(_mm512_sllv_epi32(high, high_counts[0]), bit, c[0]);
      c[1] = and_or(_mm512_sllv_epi32(high, high_counts[1]), bit, c[1]);
      c[2] = and_or(_mm512_srlv_epi32(high, high_counts[2]), bit, c[2]);
      c[3] = and_or(_mm512_srlv_epi32(high, high_counts[3]), bit, c[3]);
    }
    Vi dots[4];
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) dots[i] = dot4<false>(zero_int(), c[i], x[i]);
    // unpack{lo,hi} have put rows 4l, 4l + 1 into the first eight and 4l + 2, 4l + 3 into the last.
    const Vi eight = _mm512_set1_epi64(static_cast<int64_t>(scales[r / 2 % 2 * 8 + r / 4 * 2 + r % 2]));
    const Vi sum = weigh_dots(zero_int(), dots[0], dots[1], shuffle_bytes(eight, pattern[0]));
    return weigh_dots(sum, dots[2], dots[3], shuffle_bytes(eight, pattern[1]));
  }
};

/// q6_k: 64 low nibbles hold values 128i + [0, 64), 64 high ones the 64 after; their upper bits lie in 32 bytes.
struct RowDotsQ6K {
  Vi x[4], offset[4];  // offset: -32 * the sums of four x
  Vi order[2];         // of the scales
  Vi up, down;
  alignas(64) uint32_t ds[16];

  COTERIE_INLINE RowDotsQ6K() {
    // 128-bit lane l: four sums of sub-block l, four of l + 4; then the same from 8 on.
    const __m128i first = _mm_setr_epi16(0, 0, 0, 0, 4, 4, 4, 4);
    Vi lanes = _mm512_broadcast_i32x4(first);
    lanes = _mm512_add_epi16(lanes, _mm512_setr_epi32(0, 0, 0, 0, 0x10001, 0x10001, 0x10001, 0x10001, 0x20002, 0x20002,
                                                      0x20002, 0x20002, 0x30003, 0x30003, 0x30003, 0x30003));
    order[0] = lanes, order[1] = _mm512_add_epi16(lanes, _mm512_set1_epi16(8));
    up = shift_counts(4, 2), down = shift_counts(0, 2);
  }

  COTERIE_INLINE Vi begin(Rows block, const ActivationBlock256& activations, Vf& d, Vf& dmin) {
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) {
      x[i] = load_bytes(activations.q + 64 * i);
      offset[i] = sub_int(zero_int(), dot4<false>(zero_int(), set_int(0x20202020), x[i]));
    }
    COTERIE_UNROLL
    for (int r = 0; r < 16; ++r) __builtin_memcpy(&ds[r], block.data + r * block.stride + 206, 4);
    d = half_to_float(shift<-16>(load_int(ds))), dmin = zero();
    return zero_int();
  }

  COTERIE_INLINE Vi row(const std::byte* block, int) const {
    const Vi nibble = set_int(0x0f0f0f0f), two_bits = set_int(0x30303030);
    Vi dots[4];
    COTERIE_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Vi low = load_bytes(block + 64 * i), high = twice_32_bytes(block + 128 + 32 * i);
      const Vi first = and_or(_mm512_sllv_epi32(high, up), two_bits, bits_and(low, nibble));
      const Vi second = and_or(_mm512_srlv_epi32(high, down), two_bits, bits_and(shift<-4>(low), nibble));
      dots[2 * i] = dot4<false>(offset[2 * i], first, x[2 * i]);
      dots[2 * i + 1] = dot4<false>(offset[2 * i + 1], second, x[2 * i + 1]);
    }
    const Vi scales = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(load16(block + 192)));
    const Vi sum = weigh_dots(zero_int(), dots[0], dots[1], _mm512_permutexvar_epi16(order[0], scales));
    return weigh_dots(sum, dots[2], dots[3], _mm512_permutexvar_epi16(order[1], scales));
  }
};

template <class Format, class RowDots>
struct RowWise256 : Blocks256<Format> {
  template <int T>
  static COTERIE_INLINE void fused(Rows rows, int64_t blocks, const std::byte* const* rows_x, Ahead& ahead,
                                   Vf (&y)[T]) {
    if constexpr (T > 1) {
      Blocks256<Format>::template fused<T>(rows, blocks, rows_x, ahead, y);
    } else {
      const ActivationBlock256* x = reinterpret_cast<const ActivationBlock256*>(rows_x[0]);
      RowDots dots;
      y[0] = zero();
      for (int64_t b = 0; b < blocks; ++b, ++x, rows.data += Format::kBytes) {
        Vf d, dmin;
        const Vi min_sum = dots.begin(rows, *x, d, dmin);
        Vi fours[4];
        COTERIE_UNROLL
        for (int r = 0; r < 16; r += 4) {
          fetch(ahead, (ahead.lines + 3) / 4);  // few at a time: a processor waits for about 20 lines at once
          const std::byte* block = rows.data + r * rows.stride;
          const Vi first = dots.row(block, r), second = dots.row(block + rows.stride, r + 1);
          const Vi third = dots.row(block + 2 * rows.stride, r + 2), fourth = dots.row(block + 3 * rows.stride, r + 3);
          fours[r / 4] = sum_four(first, second, third, fourth);
        }
        // finish256's steps; what an offset adds has not been added.
        y[0] = fma(mul(d, set(x->d)), to_float(sum_each(fours)), y[0]);
        if constexpr (Format::kMin) y[0] = negated_fma(mul(dmin, set(x->d)), to_float(min_sum), y[0]);
      }
    }
  }
};
