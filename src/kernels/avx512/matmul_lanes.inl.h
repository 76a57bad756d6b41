// What kernels/matmul/*.inl.h needs of AVX-512 beyond the words of kernels/simd/avx512.h: the sizes of its tiles, its
// products of bytes, its ways of reading rows. Included inside the target region and an unnamed namespace of
// avx512/matmul*.cpp. A Vi holds one 32-bit lane a row of the weights: an integer, two 16-bit ones, or four bytes.
#pragma once

inline constexpr int64_t kTileTokens = 8;    // tokens of a register tile
inline constexpr int64_t kPanelsOfTile = 1;  // panels of one
inline constexpr int kRepackedTile = 4,
                     kRepackedFew = 8;           // tokens of a fused tile by repacked rows, of all that are fused
inline constexpr int64_t kFloatTileTokens = 8;   // of a tile of two panels of floats
inline constexpr int64_t kSumsOfFewFloats = 16;  // of a fused tile of floats by repacked rows: streams times tokens
// Codes that are signed bytes come with 128 added, which the min term takes off: vpdpbusd wants unsigned weights.
inline constexpr bool kSignedCodes = false;
inline constexpr bool kSumsOf16Bits = false;  // what dot4 sums in
/// Groups of four products that may be summed before they are weighed: as many as one likes, in 32 bits.
constexpr int span_limit(int) { return 64; }

COTERIE_INLINE void hold(Vi&) {}  // AVX2's, which has too few registers

/// acc + the four products of each lane's bytes; codes unsigned, x signed.
template <bool kSigned>
COTERIE_INLINE Vi dot4(Vi acc, Vi codes, Vi x) {
  static_assert(!kSigned);
  return _mm512_dpbusd_epi32(acc, codes, x);
}
/// acc + the two products of each lane's 16-bit numbers.
COTERIE_INLINE Vi dot2(Vi acc, Vi a, Vi b) { return _mm512_dpwssd_epi32(acc, a, b); }
/// sum + scale * what dot4 has summed; the scale as spread_scale makes it. Without scale: sum + what dot4 has summed.
COTERIE_INLINE Vi weigh(Vi dots, Vi scale, Vi sum) { return _mm512_add_epi32(sum, _mm512_mullo_epi32(dots, scale)); }
COTERIE_INLINE Vi weigh(Vi dots, Vi sum) { return _mm512_add_epi32(sum, dots); }

/// Byte j of each lane as weigh wants it.
template <int j, bool kSigned>
COTERIE_INLINE Vi spread_scale(Vi bytes) {
  if constexpr (kSigned) return _mm512_srai_epi32(shift<24 - 8 * j>(bytes), 24);
  if constexpr (j == 3) return shift<-24>(bytes);
  return _mm512_and_si512(shift<-8 * j>(bytes), set_int(0xff));
}
/// Bytes 2j and 2j + 1 of each lane as two 16-bit numbers.
template <int j, bool kSigned>
COTERIE_INLINE Vi spread_pair(Vi bytes) {
  // Into the upper bytes of both halves, then down.
  const Vi lane = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 0, 4, 0, 4, 0, 8, 0, 8, 0, 12, 0, 12));
  const Vi pattern = _mm512_add_epi8(lane, set_int(0x00800080u | (2 * j) << 8 | uint32_t{2 * j + 1} << 24));
  const Vi high = shuffle_bytes(bytes, pattern);
  return kSigned ? shift_right_halves<8>(high) : _mm512_srli_epi16(high, 8);
}

COTERIE_INLINE __m128i load16(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

COTERIE_INLINE void transpose_quads(const Vi* quad, Vi* out) {
  const Vi a = _mm512_unpacklo_epi32(quad[0], quad[1]), b = _mm512_unpackhi_epi32(quad[0], quad[1]);
  const Vi c = _mm512_unpacklo_epi32(quad[2], quad[3]), d = _mm512_unpackhi_epi32(quad[2], quad[3]);
  out[0] = _mm512_unpacklo_epi64(a, c), out[1] = _mm512_unpackhi_epi64(a, c);
  out[2] = _mm512_unpacklo_epi64(b, d), out[3] = _mm512_unpackhi_epi64(b, d);
}

/// Turns 16 bytes at `offset` of each row into four columns: lane r of out[c] holds bytes 4c … 4c + 3 of row r.
/// (Zen 4: 49 cycles for 1 kB; with masked broadcasts instead of insertions 62, with gathers 275.)
COTERIE_INLINE void load_columns(Rows rows, int64_t offset, Vi (&out)[4]) {
  Vi quad[4];
  const int64_t step = 4 * rows.stride;
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const std::byte* p = rows.data + offset + i * rows.stride;
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p)), load16(p + step), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p + 2 * step)), load16(p + 3 * step), 1);
    quad[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  transpose_quads(quad, out);
}

/// The four bytes at `offset` of each of the repacked rows (which begin a word of the block). GCC 12 would load words
/// in another order, several times some, which the hardware prefetcher does not follow (docs/log.md, q6_k repacked).
COTERIE_INLINE Vi load_word(Repacked rows, int64_t offset) {
  const std::byte* p = rows.data + offset * kWidth;
  Vi word = _mm512_loadu_si512(p);
  asm volatile("" : "+v"(word));
  return word;
}
/// The f16 at `offset` of each row, and the byte there, where it is one of those before the words or after them.
COTERIE_INLINE Vf load_halves(Repacked rows, int64_t offset) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.data + offset * kWidth)));
}
COTERIE_INLINE Vi load_bytes_of(Repacked rows, int64_t offset) {
  return _mm512_cvtepu8_epi32(load16(rows.data + offset * kWidth));
}
/// The same with 64 bytes. Each line is read by one instruction: rows whose distance is a power of two share a set of
/// the first cache, and would drive each other out of it between four visits.
COTERIE_INLINE void load_wide_columns(Rows rows, int64_t offset, Vi (&out)[16]) {
  Vi row[16], transposed[16];  // transposed[4g + c]: quarter q holds bytes 16q + 4c … of rows 4g … 4g + 3
  COTERIE_UNROLL
  for (int i = 0; i < 16; ++i) row[i] = _mm512_loadu_si512(rows.data + offset + i * rows.stride);
  COTERIE_UNROLL
  for (int g = 0; g < 4; ++g) transpose_quads(row + 4 * g, transposed + 4 * g);
  COTERIE_UNROLL
  for (int c = 0; c < 4; ++c) {
    const Vi a = _mm512_shuffle_i32x4(transposed[c], transposed[4 + c], 0x44);
    const Vi b = _mm512_shuffle_i32x4(transposed[c], transposed[4 + c], 0xee);
    const Vi d = _mm512_shuffle_i32x4(transposed[8 + c], transposed[12 + c], 0x44);
    const Vi e = _mm512_shuffle_i32x4(transposed[8 + c], transposed[12 + c], 0xee);
    out[c] = _mm512_shuffle_i32x4(a, d, 0x88), out[4 + c] = _mm512_shuffle_i32x4(a, d, 0xdd);
    out[8 + c] = _mm512_shuffle_i32x4(b, e, 0x88), out[12 + c] = _mm512_shuffle_i32x4(b, e, 0xdd);
  }
}
