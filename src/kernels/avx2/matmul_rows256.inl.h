// Few tokens by the 256-value formats: each row's codes as they lie in the file, without transposing rows into lanes,
// which pays only when its cost is shared by many tokens. A row leaves eight partial sums, and a tree adds those of
// eight rows to eight sums. All of it is exact, so the bits are those of the panel kernels.
//
// A RowDots class says
//   begin(rows, b)    what the rows of a block share: d and dmin in lanes, scales to memory
//   prepare(t, x)     what a token's activations need before the rows come
//   row_pair(block, stride, r, sum)   sum[i][t] = the partial sums of rows r and r + 1 for each token
//   mins(t)           Σ min * Σ x in lanes, when the format has mins
#pragma once
#include "kernels/matmul/blocks256.inl.h"

COTERIE_INLINE Vi load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
COTERIE_INLINE Vi products(Vi codes, Vi x) { return _mm256_maddubs_epi16(codes, x); }
COTERIE_INLINE void add_weighed(Vi& sum, Vi dots, Vi scale) {
  sum = add_int(sum, _mm256_madd_epi16(dots, scale));
  hold(sum);
}
COTERIE_INLINE Vi load_codes(const std::byte* p) {
  Vi codes = load_bytes(p);
  hold(codes);
  return codes;
}

/// Lane r of sum_each's result is the sum of all lanes of row r's v; by fours, so that not all eight are held at once.
COTERIE_INLINE Vi sum_four(Vi v0, Vi v1, Vi v2, Vi v3) {
  const Vi a = add_int(_mm256_unpacklo_epi32(v0, v1), _mm256_unpackhi_epi32(v0, v1));
  const Vi b = add_int(_mm256_unpacklo_epi32(v2, v3), _mm256_unpackhi_epi32(v2, v3));
  return add_int(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}
COTERIE_INLINE Vi sum_each(Vi first, Vi last) {
  return add_int(_mm256_permute2x128_si256(first, last, 0x20), _mm256_permute2x128_si256(first, last, 0x31));
}

/// The f16 at `offset` of each row.
COTERIE_INLINE Vf halves_of_rows(Rows rows, int64_t offset) {
  const auto half = [&](int r) {
    uint16_t bits;
    __builtin_memcpy(&bits, rows.data + offset + r * rows.stride, 2);
    return static_cast<int>(bits);
  };
  __m128i all = _mm_cvtsi32_si128(half(0));
  all = _mm_insert_epi16(all, half(1), 1), all = _mm_insert_epi16(all, half(2), 2);
  all = _mm_insert_epi16(all, half(3), 3), all = _mm_insert_epi16(all, half(4), 4);
  all = _mm_insert_epi16(all, half(5), 5), all = _mm_insert_epi16(all, half(6), 6);
  return _mm256_cvtph_ps(_mm_insert_epi16(all, half(7), 7));
}

/// q4_k and q5_k: 32 bytes of codes hold a sub-block in their low nibbles and the next one in their high ones.
template <class Format, int T>
struct RowDotsK4 {
  static constexpr int kCodes = Format::kBytes - 128;
  static constexpr bool kFifthBit = Format::kMaxCode == 31;
  const ActivationBlock256* x[T];
  Header256<8> header;
  alignas(32) uint32_t scale[8][8];  // [sub-block][row], twice in 16 bits

  COTERIE_INLINE void begin(Rows rows) {
    Format::header(rows, header);
    COTERIE_UNROLL
    for (int s = 0; s < 8; ++s) store_int(scale[s], header.scale[s]);
  }
  COTERIE_INLINE void prepare(int t, const ActivationBlock256* activations) { x[t] = activations; }
  COTERIE_INLINE Vi mins(int t) const {
    Vi sum = zero_int();
    COTERIE_UNROLL
    for (int p = 0; p < 4; ++p) sum = dot2(sum, header.pairs[p], broadcast4(x[t]->sum32 + 2 * p));
    return sum;
  }

  template <int pair>
  COTERIE_INLINE void add_pair(const std::byte* block, int64_t stride, int r, const Vi (&high)[2],
                               Vi (&sum)[2][T]) const {
    const Vi nibble = set_int(0x0f0f0f0f), bit = set_int(0x10101010);
    Vi low[2], upper[2];
    COTERIE_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Vi packed = load_codes(block + i * stride + kCodes + 32 * pair);
      low[i] = bits_and(packed, nibble), upper[i] = bits_and(shift<-4>(packed), nibble);
      if constexpr (kFifthBit) {
        low[i] = bits_or(low[i], bits_and(shift<4 - 2 * pair>(high[i]), bit));
        upper[i] = bits_or(upper[i], bits_and(shift<3 - 2 * pair>(high[i]), bit));
      }
    }
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      Vi q = load_bytes(x[t]->q + 64 * pair);
      hold(q);
      COTERIE_UNROLL
      for (int i = 0; i < 2; ++i) add_weighed(sum[i][t], products(low[i], q), set_int(scale[2 * pair][r + i]));
      q = load_bytes(x[t]->q + 64 * pair + 32);
      hold(q);
      COTERIE_UNROLL
      for (int i = 0; i < 2; ++i) add_weighed(sum[i][t], products(upper[i], q), set_int(scale[2 * pair + 1][r + i]));
    }
  }
  COTERIE_INLINE void row_pair(const std::byte* block, int64_t stride, int r, Vi (&sum)[2][T]) const {
    read_again(scale);
    Vi high[2] = {zero_int(), zero_int()};
    if constexpr (kFifthBit) high[0] = load_codes(block + 16), high[1] = load_codes(block + stride + 16);
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) sum[0][t] = sum[1][t] = zero_int();
    add_pair<0>(block, stride, r, high, sum), add_pair<1>(block, stride, r, high, sum);
    add_pair<2>(block, stride, r, high, sum), add_pair<3>(block, stride, r, high, sum);
  }
};

/// q6_k: a quarter of a half-block, 32 values, has two scales: one for each 128-bit half of a register.
template <int T>
struct RowDotsQ6K {
  const ActivationBlock256* x[T];
  struct {
    Vf d, dmin;
  } header;

  COTERIE_INLINE void begin(Rows rows) { header.d = halves_of_rows(rows, 208), header.dmin = zero(); }
  COTERIE_INLINE void prepare(int t, const ActivationBlock256* activations) { x[t] = activations; }
  COTERIE_INLINE Vi mins(int) const { return zero_int(); }

  template <int half>
  COTERIE_INLINE void add_half(const std::byte* block, Vi scales, Vi (&sum)[T]) const {
    const Vi nibble = set_int(0x0f0f0f0f), bits = set_int(0x30303030);
    const Vi even = load_codes(block + 64 * half), odd = load_codes(block + 64 * half + 32);
    const Vi high = load_codes(block + 128 + 32 * half);
    Vi codes[4], scale[4];
    codes[0] = bits_or(bits_and(even, nibble), bits_and(shift<4>(high), bits));
    codes[1] = bits_or(bits_and(odd, nibble), bits_and(shift<2>(high), bits));
    codes[2] = bits_or(bits_and(shift<-4>(even), nibble), bits_and(high, bits));
    codes[3] = bits_or(bits_and(shift<-4>(odd), nibble), bits_and(shift<-2>(high), bits));
    scale[0] = _mm256_shuffle_epi32(scales, 0x00), scale[1] = _mm256_shuffle_epi32(scales, 0x55);
    scale[2] = _mm256_shuffle_epi32(scales, 0xaa), scale[3] = _mm256_shuffle_epi32(scales, 0xff);
    COTERIE_UNROLL
    for (int p = 0; p < 4; ++p) {
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t)
        add_weighed(sum[t], products(codes[p], load_bytes(x[t]->q + 128 * half + 32 * p)), scale[p]);
    }
  }
  COTERIE_INLINE void row(const std::byte* block, int, Vi (&sum)[T]) const {
    read_again(x);
    const __m128i bytes = load16(block + 192);
    const Vi in_order = _mm256_cvtepi8_epi16(bytes);
    const __m128i by_halves = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const Vi scales = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(bytes, by_halves));
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {  // 32 too many in each code
      const Vi offset = _mm256_madd_epi16(in_order, load_bytes(x[t]->sum16));
      sum[t] = sub_int(zero_int(), shift<5>(offset));
    }
    add_half<0>(block, _mm256_unpacklo_epi16(scales, scales), sum);
    add_half<1>(block, _mm256_unpackhi_epi16(scales, scales), sum);
  }
  COTERIE_INLINE void row_pair(const std::byte* block, int64_t stride, int r, Vi (&sum)[2][T]) const {
    row(block, r, sum[0]), row(block + stride, r + 1, sum[1]);
  }
};

/// iq4_xs: 32 bytes hold two sub-blocks, their first halves in the low nibbles. Codes are signed, and not -128, so they
/// can take the sign of x, and x its magnitude.
template <int T>
struct RowDotsIQ4XS {
  Vi table;
  struct {
    Vf d, dmin;
  } header;
  alignas(32) int8_t scales[8][16];                // of a row: of 0, 2, 4, 6 twice, of 1, 3, 5, 7 twice
  alignas(32) int8_t x[T][8][32], size[T][8][32];  // as the codes lie; magnitudes

  COTERIE_INLINE RowDotsIQ4XS() : table(broadcast16(kIq4Codes)) {}
  COTERIE_INLINE void begin(Rows rows) {
    Vi c[4];
    load_columns(rows, 0, c);
    header.d = half_to_float(c[0]), header.dmin = zero();
    Vi even, odd;
    IQ4XS::scale_bytes(c, even, odd);
    const Vi a = _mm256_unpacklo_epi32(even, even), b = _mm256_unpackhi_epi32(even, even);
    const Vi c0 = _mm256_unpacklo_epi32(odd, odd), d0 = _mm256_unpackhi_epi32(odd, odd);
    const auto put = [&](int r, Vi rows_r) {
      _mm_store_si128(reinterpret_cast<__m128i*>(scales[r]), _mm256_castsi256_si128(rows_r));
      _mm_store_si128(reinterpret_cast<__m128i*>(scales[r + 4]), _mm256_extracti128_si256(rows_r, 1));
    };
    put(0, _mm256_unpacklo_epi64(a, c0)), put(1, _mm256_unpackhi_epi64(a, c0));
    put(2, _mm256_unpacklo_epi64(b, d0)), put(3, _mm256_unpackhi_epi64(b, d0));
  }
  COTERIE_INLINE void prepare(int t, const ActivationBlock256* activations) {
    COTERIE_UNROLL
    for (int p = 0; p < 4; ++p) {
      const Vi first = load_bytes(activations->q + 64 * p), second = load_bytes(activations->q + 64 * p + 32);
      const Vi low = _mm256_permute2x128_si256(first, second, 0x20);
      const Vi high = _mm256_permute2x128_si256(first, second, 0x31);
      store_int(x[t][2 * p], low), store_int(x[t][2 * p + 1], high);
      store_int(size[t][2 * p], _mm256_abs_epi8(low)), store_int(size[t][2 * p + 1], _mm256_abs_epi8(high));
    }
  }
  COTERIE_INLINE Vi mins(int) const { return zero_int(); }

  template <int pair>
  COTERIE_INLINE void add_pair(const std::byte* block, int64_t stride, Vi scale0, Vi scale1, Vi (&sum)[2][T]) const {
    const Vi nibble = set_int(0x0f0f0f0f);
    Vi low[2], high[2];
    COTERIE_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Vi packed = load_codes(block + i * stride + 8 + 32 * pair);
      low[i] = shuffle_bytes(table, bits_and(packed, nibble)),
      high[i] = shuffle_bytes(table, bits_and(shift<-4>(packed), nibble));
    }
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      Vi q = load_int(x[t][2 * pair]), magnitude = load_int(size[t][2 * pair]);
      hold(q), hold(magnitude);
      add_weighed(sum[0][t], products(magnitude, _mm256_sign_epi8(low[0], q)), scale0);
      add_weighed(sum[1][t], products(magnitude, _mm256_sign_epi8(low[1], q)), scale1);
      q = load_int(x[t][2 * pair + 1]), magnitude = load_int(size[t][2 * pair + 1]);
      hold(q), hold(magnitude);
      add_weighed(sum[0][t], products(magnitude, _mm256_sign_epi8(high[0], q)), scale0);
      add_weighed(sum[1][t], products(magnitude, _mm256_sign_epi8(high[1], q)), scale1);
    }
  }
  COTERIE_INLINE Vi scales_of(int r) const {
    const Vi eight = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(scales[r])));
    return _mm256_unpacklo_epi16(eight, eight);
  }
  COTERIE_INLINE void row_pair(const std::byte* block, int64_t stride, int r, Vi (&sum)[2][T]) const {
    read_again(this);
    const Vi a = scales_of(r), b = scales_of(r + 1);
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) sum[0][t] = sum[1][t] = zero_int();
    add_pair<0>(block, stride, _mm256_shuffle_epi32(a, 0x00), _mm256_shuffle_epi32(b, 0x00), sum);
    add_pair<1>(block, stride, _mm256_shuffle_epi32(a, 0x55), _mm256_shuffle_epi32(b, 0x55), sum);
    add_pair<2>(block, stride, _mm256_shuffle_epi32(a, 0xaa), _mm256_shuffle_epi32(b, 0xaa), sum);
    add_pair<3>(block, stride, _mm256_shuffle_epi32(a, 0xff), _mm256_shuffle_epi32(b, 0xff), sum);
  }
};

template <class Format, template <int> class RowDots>
struct RowWise256 : Blocks256<Format> {
  static constexpr int kFusedTokens = 4, kFewTokens = 8;

  template <int T>
  static COTERIE_INLINE void fused(Rows rows, int64_t blocks, const std::byte* const* rows_x, Ahead& ahead,
                                   Vf (&y)[T]) {
    const ActivationBlock256* x[T];
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) x[t] = reinterpret_cast<const ActivationBlock256*>(rows_x[t]), y[t] = zero();
    RowDots<T> both_dots[2];
    both_dots[0].begin(rows);
    for (int64_t b = 0; b < blocks; ++b, rows.data += Format::kBytes) {
      // The next block's scales are on their way while this one's codes are multiplied: they take a while.
      RowDots<T>& dots = both_dots[b % 2];
      if (b + 1 < blocks) both_dots[1 - b % 2].begin({rows.data + Format::kBytes, rows.stride});
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) dots.prepare(t, x[t]);
      Vi fours[2][T];
      COTERIE_UNROLL
      for (int half = 0; half < 2; ++half) {
        fetch(ahead, (ahead.lines + 1) / 2);  // few at a time: a processor waits for about 20 lines at once
        const std::byte* block = rows.data + 4 * half * rows.stride;
        Vi sum[2][2][T];
        dots.row_pair(block, rows.stride, 4 * half, sum[0]);
        dots.row_pair(block + 2 * rows.stride, rows.stride, 4 * half + 2, sum[1]);
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) fours[half][t] = sum_four(sum[0][0][t], sum[0][1][t], sum[1][0][t], sum[1][1][t]);
      }
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) {  // finish256's steps; what an offset adds is already off
        const Vf scale = set(x[t]->d);
        y[t] = fma(mul(dots.header.d, scale), to_float(sum_each(fours[0][t], fours[1][t])), y[t]);
        if constexpr (Format::kMin) y[t] = negated_fma(mul(dots.header.dmin, scale), to_float(dots.mins(t)), y[t]);
        ++x[t];
      }
    }
  }
};

template <int T>
using RowDotsQ4K = RowDotsK4<Q4K, T>;
template <int T>
using RowDotsQ5K = RowDotsK4<Q5K, T>;
