// What kernels/matmul/*.inl.h needs for halves of AVX-512's panels: the words of kernels/simd/avx2.h, products of bytes
// of AVX-512 VNNI on registers of 256 bits. Included inside the target region and an unnamed namespace of
// avx512/matmul_halves.cpp. A Vi holds one 32-bit lane for each of the eight rows of a half.
#pragma once

inline constexpr int64_t kWidth = 16;  // rows of a panel, as MatmulKernels::repack of AVX-512 leaves them
inline constexpr int64_t kHalf = 8;    // and of what is multiplied together
inline constexpr int64_t kTileTokens = 1, kPanelsOfTile = 1;
inline constexpr int kRepackedTile = 1, kRepackedFew = 1;
inline constexpr bool kSignedCodes = false, kSumsOf16Bits = false;  // as avx512/matmul_lanes.inl.h
constexpr int span_limit(int) { return 64; }

/// A half of a panel of repacked rows: its first eight rows or its last.
struct Repacked {
  const std::byte* data;  // of the panel
  int64_t half;
};

COTERIE_INLINE void hold(Vi&) {}

template <bool kSigned>
COTERIE_INLINE Vi dot4(Vi acc, Vi codes, Vi x) {
  static_assert(!kSigned);
  return _mm256_dpbusd_epi32(acc, codes, x);
}
COTERIE_INLINE Vi dot2(Vi acc, Vi a, Vi b) { return _mm256_dpwssd_epi32(acc, a, b); }
COTERIE_INLINE Vi weigh(Vi dots, Vi scale, Vi sum) { return _mm256_add_epi32(sum, _mm256_mullo_epi32(dots, scale)); }

template <int j, bool kSigned>
COTERIE_INLINE Vi spread_scale(Vi bytes) {
  if constexpr (kSigned) return _mm256_srai_epi32(shift<24 - 8 * j>(bytes), 24);
  if constexpr (j == 3) return shift<-24>(bytes);
  return _mm256_and_si256(shift<-8 * j>(bytes), set_int(0xff));
}
template <int j, bool kSigned>
COTERIE_INLINE Vi spread_pair(Vi bytes) {
  const __m256i lane = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 4, 0, 4, 0, 8, 0, 8, 0, 12, 0, 12));
  const Vi pattern = _mm256_add_epi8(lane, set_int(0x00800080u | (2 * j) << 8 | uint32_t{2 * j + 1} << 24));
  const Vi high = shuffle_bytes(bytes, pattern);  // into the upper bytes of both 16-bit numbers, then down
  return kSigned ? shift_right_halves<8>(high) : _mm256_srli_epi16(high, 8);
}

/// Rows in the file's order are not read by halves: named by formats, nowhere made.
template <class Source>
void load_columns(Source rows, int64_t offset, Vi (&out)[4]);

/// As avx512/matmul_lanes.inl.h, of the half's rows.
COTERIE_INLINE Vi load_word(Repacked rows, int64_t offset) {
  const std::byte* p = rows.data + offset * kWidth + 4 * kHalf * rows.half;
  Vi word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  asm volatile("" : "+v"(word));
  return word;
}
COTERIE_INLINE Vf load_halves(Repacked rows, int64_t offset) {
  const std::byte* p = rows.data + offset * kWidth + 2 * kHalf * rows.half;
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
