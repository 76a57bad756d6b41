// What kernels/matmul/*.inl.h needs of AVX2 beyond the words of kernels/simd/avx2.h: the sizes of its tiles, its
// products of bytes, its ways of reading rows. Included inside the target region and an unnamed namespace of
// avx2/matmul*.cpp. A Vi holds one 32-bit lane a row of the weights: an integer, two 16-bit ones, or four bytes.
#pragma once

inline constexpr int64_t kTileTokens = 4;    // tokens of a register tile
inline constexpr int64_t kPanelsOfTile = 2;  // panels of one: of its loads, two codes and four x make eight products
inline constexpr int kRepackedTile = 4,
                     kRepackedFew = 8;          // tokens of a fused tile by repacked rows, of all that are fused
inline constexpr int64_t kFloatTileTokens = 6;  // of a tile of two panels of floats
inline constexpr int64_t kSumsOfFewFloats = 8;  // of a fused tile of floats by repacked rows: streams times tokens
// Signed codes are taken as they are: vpmaddubsw gets their magnitude, and x gets their sign.
inline constexpr bool kSignedCodes = true;
inline constexpr bool kSumsOf16Bits = true;  // what dot4 sums in
/// Groups of four products that may be summed before they are weighed: they are two sums of 16 bits, and each group
/// adds up to 2 * 127 * max_code to one.
constexpr int span_limit(int max_code) { return 32767 / (254 * max_code); }

/// A value to be computed here and kept in a register: GCC 12 loads codes twice rather than once, and puts off
/// additions until it has to spill all that is to be added. (Zen 4, q4_k: one token 22 cycles a block, so 18; 32 tokens
/// 24 products a cycle, so 37.)
COTERIE_INLINE void hold(Vi& v) { asm("" : "+x"(v)); }
/// Everything in memory is read again after this, `p`'s included: GCC 12 would otherwise take scales out of the vectors
/// they were stored from instead of broadcasting them from memory.
COTERIE_INLINE void read_again(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

/// acc + the products of each lane's bytes, two by two in 16 bits; codes unsigned, x signed. Of signed codes of 8
/// bits just one group may be summed: 2 * 128 * 127 < 2^15.
template <bool kSigned>
COTERIE_INLINE Vi dot4(Vi acc, Vi codes, Vi x) {
  if constexpr (kSigned) {
    x = _mm256_sign_epi8(x, codes);
    codes = _mm256_abs_epi8(codes);
  }
  acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, x));
  hold(acc);
  return acc;
}
/// acc + the two products of each lane's 16-bit numbers.
COTERIE_INLINE Vi dot2(Vi acc, Vi a, Vi b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
/// sum + scale * what dot4 has summed; the scale as spread_scale makes it. Without scale: sum + what dot4 has summed.
COTERIE_INLINE Vi weigh(Vi dots, Vi scale, Vi sum) { return _mm256_add_epi32(sum, _mm256_madd_epi16(dots, scale)); }
COTERIE_INLINE Vi weigh(Vi dots, Vi sum) { return weigh(dots, _mm256_set1_epi16(1), sum); }

/// Two bytes of each lane as two 16-bit numbers.
template <int first, int second, bool kSigned>
COTERIE_INLINE Vi spread_bytes(Vi bytes) {
  // Into the upper bytes of both halves, then down.
  const __m256i lane = _mm256_setr_epi8(0, 0, 0, 0, 0, 4, 0, 4, 0, 8, 0, 8, 0, 12, 0, 12,  //
                                        0, 0, 0, 0, 0, 4, 0, 4, 0, 8, 0, 8, 0, 12, 0, 12);
  const Vi high = shuffle_bytes(bytes, _mm256_add_epi8(lane, set_int(0x00800080u | first << 8 | second << 24)));
  return kSigned ? shift_right_halves<8>(high) : _mm256_srli_epi16(high, 8);
}
/// Byte j of each lane as weigh wants it: twice in 16 bits.
template <int j, bool kSigned>
COTERIE_INLINE Vi spread_scale(Vi bytes) {
  return spread_bytes<j, j, kSigned>(bytes);
}
/// Bytes 2j and 2j + 1 of each lane as two 16-bit numbers.
template <int j, bool kSigned>
COTERIE_INLINE Vi spread_pair(Vi bytes) {
  return spread_bytes<2 * j, 2 * j + 1, kSigned>(bytes);
}

COTERIE_INLINE __m128i load16(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

/// Row i of four of each lane's half, 16 bytes at `offset`.
COTERIE_INLINE Vi load_quad(Rows rows, int64_t offset, int i) {
  const std::byte* p = rows.data + offset + i * rows.stride;
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p)), load16(p + 4 * rows.stride), 1);
}
COTERIE_INLINE void transpose_quads(const Vi (&quad)[4], Vi* out) {
  const Vi a = _mm256_unpacklo_epi32(quad[0], quad[1]), b = _mm256_unpackhi_epi32(quad[0], quad[1]);
  const Vi c = _mm256_unpacklo_epi32(quad[2], quad[3]), d = _mm256_unpackhi_epi32(quad[2], quad[3]);
  out[0] = _mm256_unpacklo_epi64(a, c), out[1] = _mm256_unpackhi_epi64(a, c);
  out[2] = _mm256_unpacklo_epi64(b, d), out[3] = _mm256_unpackhi_epi64(b, d);
}

/// Turns 16 bytes at `offset` of each row into four columns: lane r of out[c] holds bytes 4c … 4c + 3 of row r.
COTERIE_INLINE void load_columns(Rows rows, int64_t offset, Vi (&out)[4]) {
  Vi quad[4];
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) quad[i] = load_quad(rows, offset, i);
  transpose_quads(quad, out);
}
/// The four bytes at `offset` of each of the repacked rows (which begin a word of the block). GCC 12 would load words
/// in another order, several times some, which the hardware prefetcher does not follow (docs/log.md, q6_k repacked).
COTERIE_INLINE Vi load_word(Repacked rows, int64_t offset) {
  const std::byte* p = rows.data + offset * kWidth;
  Vi word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  asm volatile("" : "+x"(word));
  return word;
}
/// The f16 at `offset` of each row, and the byte there, where it is one of those before the words or after them.
COTERIE_INLINE Vf load_halves(Repacked rows, int64_t offset) {
  return _mm256_cvtph_ps(load16(rows.data + offset * kWidth));
}
COTERIE_INLINE Vi load_bytes_of(Repacked rows, int64_t offset) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows.data + offset * kWidth)));
}
/// The same with 64 bytes, a cache line of each row after the other: rows whose distance is a power of two share a set
/// of the first cache, and would drive each other out of it between four visits.
COTERIE_INLINE void load_wide_columns(Rows rows, int64_t offset, Vi (&out)[16]) {
  Vi quad[4][4];
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) {
    COTERIE_UNROLL
    for (int u = 0; u < 4; ++u) quad[u][i] = load_quad(rows, offset + 16 * u, i);
  }
  COTERIE_UNROLL
  for (int u = 0; u < 4; ++u) transpose_quads(quad[u], out + 4 * u);
}
