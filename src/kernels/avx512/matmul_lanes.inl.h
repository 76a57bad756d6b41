// The words that kernels/matmul/*.inl.h is written in, for AVX-512 (F, BW, DQ, VL, VNNI). Included inside the target
// region and an unnamed namespace of avx512/matmul*.cpp. An Int holds one 32-bit lane a row of the weights: an integer,
// two 16-bit ones, or four bytes.
#pragma once

using Int = __m512i;
using Float = __m512;

inline constexpr int64_t kLanes = 16;
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

COTERIE_INLINE Int zero_int() { return _mm512_setzero_si512(); }
COTERIE_INLINE Int set_int(uint32_t v) { return _mm512_set1_epi32(static_cast<int>(v)); }
COTERIE_INLINE Int load_int(const void* p) { return _mm512_load_si512(p); }
COTERIE_INLINE void store_int(void* p, Int v) { _mm512_store_si512(p, v); }
COTERIE_INLINE Int broadcast4(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
COTERIE_INLINE Int broadcast16(const void* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
COTERIE_INLINE Int bits_and(Int a, Int b) { return _mm512_and_si512(a, b); }
COTERIE_INLINE Int bits_or(Int a, Int b) { return _mm512_or_si512(a, b); }
/// (a & mask) | b
COTERIE_INLINE Int and_or(Int a, Int mask, Int b) { return _mm512_ternarylogic_epi32(a, mask, b, 0xEA); }
template <int n>
COTERIE_INLINE Int shift(Int v) {  // to the left by n, or to the right by -n with zeros
  if constexpr (n > 0) return _mm512_slli_epi32(v, n);
  if constexpr (n < 0) return _mm512_srli_epi32(v, -n);
  return v;
}
template <int n>
COTERIE_INLINE Int shift_right_signed(Int v) {
  return _mm512_srai_epi32(v, n);
}
/// Both 16-bit numbers of each lane.
template <int n>
COTERIE_INLINE Int shift_right_halves(Int v) {
  return _mm512_srai_epi16(v, n);
}
/// As shift<n>, for loops that are unrolled.
COTERIE_INLINE Int shift_by(Int v, int n) { return n < 0 ? _mm512_srli_epi32(v, -n) : _mm512_slli_epi32(v, n); }
COTERIE_INLINE Int add_int(Int a, Int b) { return _mm512_add_epi32(a, b); }
COTERIE_INLINE Int sub_int(Int a, Int b) { return _mm512_sub_epi32(a, b); }
COTERIE_INLINE Int sub_bytes(Int a, Int b) { return _mm512_sub_epi8(a, b); }
COTERIE_INLINE Int mul_int(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
COTERIE_INLINE Int shuffle_bytes(Int v, Int pattern) { return _mm512_shuffle_epi8(v, pattern); }
/// Four bytes of a table for each lane, from byte kScale * index on.
template <int kScale>
COTERIE_INLINE Int gather4(const void* table, Int index) {
  return _mm512_i32gather_epi32(index, table, kScale);
}
/// Codes to which kOffset has been added: negative in the bytes where `signs` has one of `bits`.
template <int kOffset>
COTERIE_INLINE Int negate_where(Int codes, Int signs, Int bits) {
  return _mm512_mask_sub_epi8(codes, _mm512_test_epi8_mask(signs, bits), set_int(2 * kOffset * 0x01010101u), codes);
}
COTERIE_INLINE Int max_unsigned(Int a, Int b) { return _mm512_max_epu32(a, b); }
COTERIE_INLINE Int where_less(Int a, Int b, Int yes, Int no) {
  return _mm512_mask_mov_epi32(no, _mm512_cmplt_epi32_mask(a, b), yes);
}

COTERIE_INLINE Float zero_float() { return _mm512_setzero_ps(); }
COTERIE_INLINE Float set_float(float v) { return _mm512_set1_ps(v); }
COTERIE_INLINE Float load_float(const float* p) { return _mm512_loadu_ps(p); }
COTERIE_INLINE void store_float(float* p, Float v) { _mm512_storeu_ps(p, v); }
/// The first n lanes, 1 <= n <= kLanes.
COTERIE_INLINE void store_first(float* p, Float v, int64_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
COTERIE_INLINE Float load_first(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
COTERIE_INLINE Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
COTERIE_INLINE Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
COTERIE_INLINE Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
COTERIE_INLINE Float negated_fma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }
COTERIE_INLINE Float to_float(Int v) { return _mm512_cvtepi32_ps(v); }
COTERIE_INLINE Int round_to_int(Float v) { return _mm512_cvtps_epi32(v); }
COTERIE_INLINE Float as_float(Int v) { return _mm512_castsi512_ps(v); }
COTERIE_INLINE Int as_int(Float v) { return _mm512_castps_si512(v); }
/// The f16 in the low half of each lane.
COTERIE_INLINE Float half_to_float(Int v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }
/// To the nearest f16, the even one of two.
COTERIE_INLINE Float round_to_half(Float v) {
  return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

COTERIE_INLINE uint32_t reduce_max_unsigned(Int v) { return _mm512_reduce_max_epu32(v); }
COTERIE_INLINE int32_t reduce_add(Int v) { return _mm512_reduce_add_epi32(v); }
/// Lanes in [-128, 127] as bytes.
COTERIE_INLINE void store_as_bytes(int8_t* p, Int v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}

COTERIE_INLINE void hold(Int&) {}  // AVX2's, which has too few registers

/// acc + the four products of each lane's bytes; codes unsigned, x signed.
template <bool kSigned>
COTERIE_INLINE Int dot4(Int acc, Int codes, Int x) {
  static_assert(!kSigned);
  return _mm512_dpbusd_epi32(acc, codes, x);
}
/// acc + the two products of each lane's 16-bit numbers.
COTERIE_INLINE Int dot2(Int acc, Int a, Int b) { return _mm512_dpwssd_epi32(acc, a, b); }
/// sum + scale * what dot4 has summed; the scale as spread_scale makes it. Without scale: sum + what dot4 has summed.
COTERIE_INLINE Int weigh(Int dots, Int scale, Int sum) {
  return _mm512_add_epi32(sum, _mm512_mullo_epi32(dots, scale));
}
COTERIE_INLINE Int weigh(Int dots, Int sum) { return _mm512_add_epi32(sum, dots); }

/// Byte j of each lane as weigh wants it.
template <int j, bool kSigned>
COTERIE_INLINE Int spread_scale(Int bytes) {
  if constexpr (kSigned) return _mm512_srai_epi32(shift<24 - 8 * j>(bytes), 24);
  if constexpr (j == 3) return shift<-24>(bytes);
  return _mm512_and_si512(shift<-8 * j>(bytes), set_int(0xff));
}
/// Bytes 2j and 2j + 1 of each lane as two 16-bit numbers.
template <int j, bool kSigned>
COTERIE_INLINE Int spread_pair(Int bytes) {
  // Into the upper bytes of both halves, then down.
  const Int lane = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 0, 4, 0, 4, 0, 8, 0, 8, 0, 12, 0, 12));
  const Int pattern = _mm512_add_epi8(lane, set_int(0x00800080u | (2 * j) << 8 | uint32_t{2 * j + 1} << 24));
  const Int high = shuffle_bytes(bytes, pattern);
  return kSigned ? shift_right_halves<8>(high) : _mm512_srli_epi16(high, 8);
}

COTERIE_INLINE __m128i load16(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

COTERIE_INLINE void transpose_quads(const Int* quad, Int* out) {
  const Int a = _mm512_unpacklo_epi32(quad[0], quad[1]), b = _mm512_unpackhi_epi32(quad[0], quad[1]);
  const Int c = _mm512_unpacklo_epi32(quad[2], quad[3]), d = _mm512_unpackhi_epi32(quad[2], quad[3]);
  out[0] = _mm512_unpacklo_epi64(a, c), out[1] = _mm512_unpackhi_epi64(a, c);
  out[2] = _mm512_unpacklo_epi64(b, d), out[3] = _mm512_unpackhi_epi64(b, d);
}

/// Turns 16 bytes at `offset` of each row into four columns: lane r of out[c] holds bytes 4c … 4c + 3 of row r.
/// (Zen 4: 49 cycles for 1 kB; with masked broadcasts instead of insertions 62, with gathers 275.)
COTERIE_INLINE void load_columns(Rows rows, int64_t offset, Int (&out)[4]) {
  Int quad[4];
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
COTERIE_INLINE Int load_word(Repacked rows, int64_t offset) {
  const std::byte* p = rows.data + offset * kLanes;
  Int word = _mm512_loadu_si512(p);
  asm volatile("" : "+v"(word));
  return word;
}
/// The f16 at `offset` of each row, and the byte there, where it is one of those before the words or after them.
COTERIE_INLINE Float load_halves(Repacked rows, int64_t offset) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.data + offset * kLanes)));
}
COTERIE_INLINE Int load_bytes_of(Repacked rows, int64_t offset) {
  return _mm512_cvtepu8_epi32(load16(rows.data + offset * kLanes));
}
/// The same with 64 bytes. Each line is read by one instruction: rows whose distance is a power of two share a set of
/// the first cache, and would drive each other out of it between four visits.
COTERIE_INLINE void load_wide_columns(Rows rows, int64_t offset, Int (&out)[16]) {
  Int row[16], transposed[16];  // transposed[4g + c]: quarter q holds bytes 16q + 4c … of rows 4g … 4g + 3
  COTERIE_UNROLL
  for (int i = 0; i < 16; ++i) row[i] = _mm512_loadu_si512(rows.data + offset + i * rows.stride);
  COTERIE_UNROLL
  for (int g = 0; g < 4; ++g) transpose_quads(row + 4 * g, transposed + 4 * g);
  COTERIE_UNROLL
  for (int c = 0; c < 4; ++c) {
    const Int a = _mm512_shuffle_i32x4(transposed[c], transposed[4 + c], 0x44);
    const Int b = _mm512_shuffle_i32x4(transposed[c], transposed[4 + c], 0xee);
    const Int d = _mm512_shuffle_i32x4(transposed[8 + c], transposed[12 + c], 0x44);
    const Int e = _mm512_shuffle_i32x4(transposed[8 + c], transposed[12 + c], 0xee);
    out[c] = _mm512_shuffle_i32x4(a, d, 0x88), out[4 + c] = _mm512_shuffle_i32x4(a, d, 0xdd);
    out[8 + c] = _mm512_shuffle_i32x4(b, e, 0x88), out[12 + c] = _mm512_shuffle_i32x4(b, e, 0xdd);
  }
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
