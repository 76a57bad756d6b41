// The words that kernels/matmul/*.inl.h is written in, for AVX2 with FMA and F16C. Included inside the target
// region and an unnamed namespace of avx2/matmul*.cpp. An Int holds one 32-bit lane a row of the weights: an integer,
// two 16-bit ones, or four bytes.
#pragma once

using Int = __m256i;
using Float = __m256;

inline constexpr int64_t kLanes = 8;
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

COTERIE_INLINE Int zero_int() { return _mm256_setzero_si256(); }
COTERIE_INLINE Int set_int(uint32_t v) { return _mm256_set1_epi32(static_cast<int>(v)); }
COTERIE_INLINE Int load_int(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
COTERIE_INLINE void store_int(void* p, Int v) { _mm256_store_si256(static_cast<__m256i*>(p), v); }
COTERIE_INLINE Int broadcast4(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
COTERIE_INLINE Int broadcast16(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
COTERIE_INLINE Int bits_and(Int a, Int b) { return _mm256_and_si256(a, b); }
COTERIE_INLINE Int bits_or(Int a, Int b) { return _mm256_or_si256(a, b); }
/// (a & mask) | b
COTERIE_INLINE Int and_or(Int a, Int mask, Int b) { return _mm256_or_si256(_mm256_and_si256(a, mask), b); }
template <int n>
COTERIE_INLINE Int shift(Int v) {  // to the left by n, or to the right by -n with zeros
  if constexpr (n > 0) return _mm256_slli_epi32(v, n);
  if constexpr (n < 0) return _mm256_srli_epi32(v, -n);
  return v;
}
template <int n>
COTERIE_INLINE Int shift_right_signed(Int v) {
  return _mm256_srai_epi32(v, n);
}
/// Both 16-bit numbers of each lane.
template <int n>
COTERIE_INLINE Int shift_right_halves(Int v) {
  return _mm256_srai_epi16(v, n);
}
/// As shift<n>, for loops that are unrolled.
COTERIE_INLINE Int shift_by(Int v, int n) { return n < 0 ? _mm256_srli_epi32(v, -n) : _mm256_slli_epi32(v, n); }
COTERIE_INLINE Int add_int(Int a, Int b) { return _mm256_add_epi32(a, b); }
COTERIE_INLINE Int sub_int(Int a, Int b) { return _mm256_sub_epi32(a, b); }
COTERIE_INLINE Int sub_bytes(Int a, Int b) { return _mm256_sub_epi8(a, b); }
COTERIE_INLINE Int mul_int(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
COTERIE_INLINE Int shuffle_bytes(Int v, Int pattern) { return _mm256_shuffle_epi8(v, pattern); }
/// Four bytes of a table for each lane, from byte kScale * index on.
template <int kScale>
COTERIE_INLINE Int gather4(const void* table, Int index) {
  return _mm256_i32gather_epi32(static_cast<const int*>(table), index, kScale);
}
/// Codes to which kOffset has been added: negative in the bytes where `signs` has the one of `bits`.
template <int kOffset>
COTERIE_INLINE Int negate_where(Int codes, Int signs, Int bits) {
  const Int negative = _mm256_cmpeq_epi8(_mm256_and_si256(signs, bits), bits);
  if constexpr (kOffset == 0) return _mm256_sign_epi8(codes, bits_or(negative, set_int(0x01010101)));
  return _mm256_blendv_epi8(codes, sub_bytes(set_int(2 * kOffset * 0x01010101u), codes), negative);
}
COTERIE_INLINE Int max_unsigned(Int a, Int b) { return _mm256_max_epu32(a, b); }
COTERIE_INLINE Int where_less(Int a, Int b, Int yes, Int no) {
  return _mm256_blendv_epi8(no, yes, _mm256_cmpgt_epi32(b, a));
}

COTERIE_INLINE Float zero_float() { return _mm256_setzero_ps(); }
COTERIE_INLINE Float set_float(float v) { return _mm256_set1_ps(v); }
COTERIE_INLINE Float load_float(const float* p) { return _mm256_loadu_ps(p); }
COTERIE_INLINE void store_float(float* p, Float v) { _mm256_storeu_ps(p, v); }
/// The first n lanes, 1 <= n <= kLanes.
COTERIE_INLINE void store_first(float* p, Float v, int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane), v);
}
COTERIE_INLINE Float load_first(const float* p, int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane));
}
COTERIE_INLINE Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
COTERIE_INLINE Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
COTERIE_INLINE Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
COTERIE_INLINE Float negated_fma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
COTERIE_INLINE Float to_float(Int v) { return _mm256_cvtepi32_ps(v); }
COTERIE_INLINE Int round_to_int(Float v) { return _mm256_cvtps_epi32(v); }
COTERIE_INLINE Float as_float(Int v) { return _mm256_castsi256_ps(v); }
COTERIE_INLINE Int as_int(Float v) { return _mm256_castps_si256(v); }
/// The f16 in the low half of each lane.
COTERIE_INLINE Float half_to_float(Int v) {
  const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
  return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
/// To the nearest f16, the even one of two.
COTERIE_INLINE Float round_to_half(Float v) {
  return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

COTERIE_INLINE uint32_t reduce_max_unsigned(Int v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
}
COTERIE_INLINE int32_t reduce_add(Int v) {
  __m128i m = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return _mm_cvtsi128_si32(m);
}
/// Lanes in [-128, 127] as bytes.
COTERIE_INLINE void store_as_bytes(int8_t* p, Int v) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

/// A value to be computed here and kept in a register: GCC 12 loads codes twice rather than once, and puts off
/// additions until it has to spill all that is to be added. (Zen 4, q4_k: one token 22 cycles a block, so 18; 32 tokens
/// 24 products a cycle, so 37.)
COTERIE_INLINE void hold(Int& v) { asm("" : "+x"(v)); }
/// Everything in memory is read again after this, `p`'s included: GCC 12 would otherwise take scales out of the vectors
/// they were stored from instead of broadcasting them from memory.
COTERIE_INLINE void read_again(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

/// acc + the products of each lane's bytes, two by two in 16 bits; codes unsigned, x signed. Of signed codes of 8
/// bits just one group may be summed: 2 * 128 * 127 < 2^15.
template <bool kSigned>
COTERIE_INLINE Int dot4(Int acc, Int codes, Int x) {
  if constexpr (kSigned) {
    x = _mm256_sign_epi8(x, codes);
    codes = _mm256_abs_epi8(codes);
  }
  acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, x));
  hold(acc);
  return acc;
}
/// acc + the two products of each lane's 16-bit numbers.
COTERIE_INLINE Int dot2(Int acc, Int a, Int b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
/// sum + scale * what dot4 has summed; the scale as spread_scale makes it. Without scale: sum + what dot4 has summed.
COTERIE_INLINE Int weigh(Int dots, Int scale, Int sum) { return _mm256_add_epi32(sum, _mm256_madd_epi16(dots, scale)); }
COTERIE_INLINE Int weigh(Int dots, Int sum) { return weigh(dots, _mm256_set1_epi16(1), sum); }

/// Two bytes of each lane as two 16-bit numbers.
template <int first, int second, bool kSigned>
COTERIE_INLINE Int spread_bytes(Int bytes) {
  // Into the upper bytes of both halves, then down.
  const __m256i lane = _mm256_setr_epi8(0, 0, 0, 0, 0, 4, 0, 4, 0, 8, 0, 8, 0, 12, 0, 12,  //
                                        0, 0, 0, 0, 0, 4, 0, 4, 0, 8, 0, 8, 0, 12, 0, 12);
  const Int high = shuffle_bytes(bytes, _mm256_add_epi8(lane, set_int(0x00800080u | first << 8 | second << 24)));
  return kSigned ? shift_right_halves<8>(high) : _mm256_srli_epi16(high, 8);
}
/// Byte j of each lane as weigh wants it: twice in 16 bits.
template <int j, bool kSigned>
COTERIE_INLINE Int spread_scale(Int bytes) {
  return spread_bytes<j, j, kSigned>(bytes);
}
/// Bytes 2j and 2j + 1 of each lane as two 16-bit numbers.
template <int j, bool kSigned>
COTERIE_INLINE Int spread_pair(Int bytes) {
  return spread_bytes<2 * j, 2 * j + 1, kSigned>(bytes);
}

COTERIE_INLINE __m128i load16(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

/// Row i of four of each lane's half, 16 bytes at `offset`.
COTERIE_INLINE Int load_quad(Rows rows, int64_t offset, int i) {
  const std::byte* p = rows.data + offset + i * rows.stride;
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p)), load16(p + 4 * rows.stride), 1);
}
COTERIE_INLINE void transpose_quads(const Int (&quad)[4], Int* out) {
  const Int a = _mm256_unpacklo_epi32(quad[0], quad[1]), b = _mm256_unpackhi_epi32(quad[0], quad[1]);
  const Int c = _mm256_unpacklo_epi32(quad[2], quad[3]), d = _mm256_unpackhi_epi32(quad[2], quad[3]);
  out[0] = _mm256_unpacklo_epi64(a, c), out[1] = _mm256_unpackhi_epi64(a, c);
  out[2] = _mm256_unpacklo_epi64(b, d), out[3] = _mm256_unpackhi_epi64(b, d);
}

/// Turns 16 bytes at `offset` of each row into four columns: lane r of out[c] holds bytes 4c … 4c + 3 of row r.
COTERIE_INLINE void load_columns(Rows rows, int64_t offset, Int (&out)[4]) {
  Int quad[4];
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) quad[i] = load_quad(rows, offset, i);
  transpose_quads(quad, out);
}
/// The four bytes at `offset` of each of the repacked rows (which begin a word of the block). GCC 12 would load words
/// in another order, several times some, which the hardware prefetcher does not follow (docs/log.md, q6_k repacked).
COTERIE_INLINE Int load_word(Repacked rows, int64_t offset) {
  const std::byte* p = rows.data + offset * kLanes;
  Int word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  asm volatile("" : "+x"(word));
  return word;
}
/// The f16 at `offset` of each row, and the byte there, where it is one of those before the words or after them.
COTERIE_INLINE Float load_halves(Repacked rows, int64_t offset) {
  return _mm256_cvtph_ps(load16(rows.data + offset * kLanes));
}
COTERIE_INLINE Int load_bytes_of(Repacked rows, int64_t offset) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows.data + offset * kLanes)));
}
/// The same with 64 bytes, a cache line of each row after the other: rows whose distance is a power of two share a set
/// of the first cache, and would drive each other out of it between four visits.
COTERIE_INLINE void load_wide_columns(Rows rows, int64_t offset, Int (&out)[16]) {
  Int quad[4][4];
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) {
    COTERIE_UNROLL
    for (int u = 0; u < 4; ++u) quad[u][i] = load_quad(rows, offset + 16 * u, i);
  }
  COTERIE_UNROLL
  for (int u = 0; u < 4; ++u) transpose_quads(quad[u], out + 4 * u);
}

COTERIE_INLINE void fetch(Ahead& ahead, int64_t lines) {
  for (int64_t i = 0; i < lines && ahead.at < ahead.end; ++i, ahead.at += 64) {
    if (ahead.near)
      __builtin_prefetch(ahead.at, 0, 3);
    else
      __builtin_prefetch(ahead.at, 0, 2);
  }
}
COTERIE_INLINE void fetch(Ahead& ahead) { fetch(ahead, ahead.lines); }
