#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "tensor/half.h"

// The block formats of GGUF, byte for byte. A row is a sequence of blocks; each holds 32 values, or 256 in sub-blocks
// of 16 or 32 that have small integer scales of their own. d, m and dmin are IEEE half precision, little-endian.
//
// Structs are packed: blocks may lie at any address. q is the code of value i; [i] counts values in the block.
// Layouts: ggml's ggml-common.h; arithmetic and its order: gguf-py's quants.py, which decode() equals to the bit.
namespace coterie::quant {

#define COTERIE_PACKED __attribute__((packed))

// value = d * (q - 8). codes[j]: low nibble is value j, high nibble is value j + 16.
struct COTERIE_PACKED BlockQ4_0 {
  uint16_t d;
  uint8_t codes[16];
};

// value = d * q + m. Nibbles as in q4_0.
struct COTERIE_PACKED BlockQ4_1 {
  uint16_t d, m;
  uint8_t codes[16];
};

// value = d * (q - 16). Low four bits of q as in q4_0; bit i of high_bits (little-endian) is bit 4 of value i.
struct COTERIE_PACKED BlockQ5_0 {
  uint16_t d;
  uint8_t high_bits[4];
  uint8_t codes[16];
};

// value = d * q + m. Codes as in q5_0.
struct COTERIE_PACKED BlockQ5_1 {
  uint16_t d, m;
  uint8_t high_bits[4];
  uint8_t codes[16];
};

// value = d * q.
struct COTERIE_PACKED BlockQ8_0 {
  uint16_t d;
  int8_t codes[32];
};

// 16 sub-blocks of 16. value = (d * scale) * q - (dmin * min); scales[s] holds scale (low nibble) and min (high) of
// sub-block s. q has 2 bits: of value i = 128 h + 32 p + j they are bits 2p.. of codes[32 h + j].
struct COTERIE_PACKED BlockQ2_K {
  uint8_t scales[16];
  uint8_t codes[64];
  uint16_t d, dmin;
};

// 16 sub-blocks of 16. value = (d * (scale - 32)) * (q - 4). Low two bits of q as in q2_k; bit 2 of value
// i = 32 p + j is bit p of high_bits[j]. Scales are six bits: unpack_scale_q3_k.
struct COTERIE_PACKED BlockQ3_K {
  uint8_t high_bits[32];
  uint8_t codes[64];
  uint8_t scales[12];
  uint16_t d;
};

// 8 sub-blocks of 32. value = (d * scale) * q - (dmin * min). Of values 64 p + j and 64 p + 32 + j the codes are the
// low and the high nibble of codes[32 p + j]. Scales and mins are six bits each: unpack_scale_k4.
struct COTERIE_PACKED BlockQ4_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t codes[128];
};

// As q4_k with a fifth bit: of value i = 32 p + j it is bit p of high_bits[j].
struct COTERIE_PACKED BlockQ5_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t high_bits[32];
  uint8_t codes[128];
};

// 16 sub-blocks of 16. value = (d * scale) * (q - 32). With i = 128 h + 32 p + j: the low four bits are a nibble of
// low_codes[64 h + 32 (p % 2) + j] (low for p < 2, high for p >= 2); bits 4 and 5 are bits 2p.. of
// high_codes[32 h + j].
struct COTERIE_PACKED BlockQ6_K {
  uint8_t low_codes[128];
  uint8_t high_codes[64];
  int8_t scales[16];
  uint16_t d;
};

// value = d * kIq4Values[q]. Nibbles as in q4_0.
struct COTERIE_PACKED BlockIQ4_NL {
  uint16_t d;
  uint8_t codes[16];
};

// 8 sub-blocks of 32, each with nibbles as in q4_0. value = (d * (scale - 32)) * kIq4Values[q]. Scale s: four bits
// from a nibble of scales_low[s / 2], two bits from bits 2s.. of scales_high.
struct COTERIE_PACKED BlockIQ4_XS {
  uint16_t d;
  uint16_t scales_high;
  uint8_t scales_low[4];
  uint8_t codes[128];
};

// OCP Microscaling FP4. value = 2^(exponent - 128) * kMxfp4Values[q], the table being twice the e2m1 numbers. Nibbles
// as in q4_0.
struct COTERIE_PACKED BlockMXFP4 {
  uint8_t exponent;
  uint8_t codes[16];
};

// The formats below hold groups of values as entries of a codebook, a grid (quant/grids.h), with signs or offsets
// apart. "index e" is of the entry for values [w e, w e + w), w = 8 in iq1 and iq2, 4 in iq3; "sign i" is negative
// where the bit is set. Where there are seven bits of signs for eight values, the eighth makes the number of negative
// ones even.

// 8 sub-blocks of 32. value = d / 8 * (2 scale + 1) * sign * grid. Of sub-block s: four bytes of indices, then a word
// whose bits 7j … 7j + 6 are the signs of its eight values j and whose top four are the scale.
struct COTERIE_PACKED BlockIQ2_XXS {
  uint16_t d;
  uint32_t words[16];
};

// 16 sub-blocks of 16. value = d / 8 * (2 scale + 1) * sign * grid. codes[e]: index e in nine bits, seven of signs
// above. A byte of scales holds two, the first in its low nibble.
struct COTERIE_PACKED BlockIQ2_XS {
  uint16_t d;
  uint16_t codes[32];
  uint8_t scales[8];
};

// As iq2_xs, with ten bits of index: the low eight in codes[e], two from bits 2 (e % 4).. of high_bits[e / 4]. Bit i of
// signs (little-endian) is the sign of value i.
struct COTERIE_PACKED BlockIQ2_S {
  uint16_t d;
  uint8_t codes[32];
  uint8_t signs[32];
  uint8_t high_bits[8];
  uint8_t scales[8];
};

// 8 sub-blocks of 32. value = d / 4 * (2 scale + 1) * sign * grid. codes[e]: index e; signs_and_scales as the second
// word of a sub-block of iq2_xxs.
struct COTERIE_PACKED BlockIQ3_XXS {
  uint16_t d;
  uint8_t codes[64];
  uint32_t signs_and_scales[8];
};

// 8 sub-blocks of 32. value = d * (2 scale + 1) * sign * grid. Index e: codes[e] and, as its ninth bit, bit e of
// high_bits (little-endian). Signs and scales as in iq2_s.
struct COTERIE_PACKED BlockIQ3_S {
  uint16_t d;
  uint8_t codes[64];
  uint8_t high_bits[8];
  uint8_t signs[32];
  uint8_t scales[4];
};

// 8 sub-blocks of 32. value = d * (2 scale + 1) * (grid + delta), delta = 1/8, or -1/8 where bit 15 of heads[s] is set;
// bits 12.. of it are the scale and bits 3j.. the upper three bits of the index of its eight values j, codes[4 s + j]
// the lower eight.
struct COTERIE_PACKED BlockIQ1_S {
  uint16_t d;
  uint8_t codes[32];
  uint16_t heads[8];
};

// 16 sub-blocks of 16. As iq1_s; the upper three bits of index e and its delta's sign are a nibble of high_bits, low
// for even e. Scale s: bits 3 (s % 4).. of scales[s / 4]. The top nibbles of scales, the first lowest, are d.
struct COTERIE_PACKED BlockIQ1_M {
  uint8_t codes[32];
  uint8_t high_bits[16];
  uint16_t scales[4];
};

// value = d * (q - 1), q = 0, 1, 2: the five digits of base 3 after the point of codes / 256, the most significant
// first. Digit n of byte j: value 32 n + j of the first 32 bytes, 160 + 16 n + j of the next 16, 240 + 4 n + j of
// last_codes.
struct COTERIE_PACKED BlockTQ1_0 {
  uint8_t codes[48];
  uint8_t last_codes[4];
  uint16_t d;
};

// value = d * (q - 1). Codes of 2 bits as in q2_k.
struct COTERIE_PACKED BlockTQ2_0 {
  uint8_t codes[64];
  uint16_t d;
};

#undef COTERIE_PACKED

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34);
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);
static_assert(sizeof(BlockIQ4_NL) == 18 && sizeof(BlockIQ4_XS) == 136 && sizeof(BlockMXFP4) == 17);
static_assert(sizeof(BlockIQ2_XXS) == 66 && sizeof(BlockIQ2_XS) == 74 && sizeof(BlockIQ2_S) == 82);
static_assert(sizeof(BlockIQ3_XXS) == 98 && sizeof(BlockIQ3_S) == 110);
static_assert(sizeof(BlockIQ1_S) == 50 && sizeof(BlockIQ1_M) == 56);
static_assert(sizeof(BlockTQ1_0) == 54 && sizeof(BlockTQ2_0) == 66);
static_assert(std::endian::native == std::endian::little, "blocks are read as they lie in the file");

inline constexpr int kSmallBlock = 32;
inline constexpr int kSuperBlock = 256;

inline constexpr std::array<int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                      1,    13,   25,  38,  53,  69,  89,  113};
inline constexpr std::array<int8_t, 16> kMxfp4Values = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// 2^(exponent - 128): the e8m0 scale halved, which makes up for the doubled table. 0 and 1 are subnormal numbers.
inline float mxfp4_scale(uint8_t exponent) {
  const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : uint32_t{exponent - 1u} << 23;
  return std::bit_cast<float>(bits);
}

/// Scale and min of sub-block s (0..7) of q4_k and q5_k, 0..63 each. The first four lie in six bits of a byte; of the
/// last four the low bits share bytes 8..11 and the high two bits fill the tops of bytes 0..7.
inline void unpack_scale_k4(const uint8_t* scales, int s, uint8_t& scale, uint8_t& min) {
  if (s < 4) {
    scale = scales[s] & 63, min = scales[s + 4] & 63;
  } else {
    scale = static_cast<uint8_t>((scales[s + 4] & 15) | ((scales[s - 4] >> 6) << 4));
    min = static_cast<uint8_t>((scales[s + 4] >> 4) | ((scales[s] >> 6) << 4));
  }
}
inline void pack_scales_k4(const uint8_t (&scale)[8], const uint8_t (&min)[8], uint8_t* scales) {
  for (int s = 0; s < 4; ++s) {
    scales[s] = static_cast<uint8_t>(scale[s] | ((scale[s + 4] >> 4) << 6));
    scales[s + 4] = static_cast<uint8_t>(min[s] | ((min[s + 4] >> 4) << 6));
    scales[s + 8] = static_cast<uint8_t>((scale[s + 4] & 15) | ((min[s + 4] & 15) << 4));
  }
}

/// Scale of sub-block s (0..15) of q3_k, 0..63 (32 is subtracted by the formula): the low four bits are a nibble of
/// bytes 0..7, the high two are pairs of bits in bytes 8..11.
inline uint8_t unpack_scale_q3_k(const uint8_t* scales, int s) {
  const int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
  const int high = (scales[8 + s % 4] >> (2 * (s / 4))) & 3;
  return static_cast<uint8_t>(low | (high << 4));
}
inline void pack_scales_q3_k(const uint8_t (&scale)[16], uint8_t* scales) {
  for (int s = 0; s < 8; ++s) scales[s] = static_cast<uint8_t>((scale[s] & 15) | ((scale[s + 8] & 15) << 4));
  for (int s = 0; s < 4; ++s)
    scales[8 + s] = static_cast<uint8_t>((scale[s] >> 4) | ((scale[s + 4] >> 4) << 2) | ((scale[s + 8] >> 4) << 4) |
                                         ((scale[s + 12] >> 4) << 6));
}

/// Scale of sub-block s (0..7) of iq4_xs, 0..63 (32 is subtracted by the formula).
inline uint8_t unpack_scale_iq4_xs(const BlockIQ4_XS& block, int s) {
  const int low = (block.scales_low[s / 2] >> (4 * (s % 2))) & 15;
  return static_cast<uint8_t>(low | (((block.scales_high >> (2 * s)) & 3) << 4));
}

}  // namespace coterie::quant
