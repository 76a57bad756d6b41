#pragma once

#include <cstring>

#include "quant/blocks.h"
#include "quant/grids.h"

// What a block says in integers, the slow and plain way: the scalar kernels' view of each format.
namespace coterie::kernels {

/// value = d * scale[i / 16] * q[i] - dmin * min[i / 16]
struct IntegerBlock256 {
  int16_t q[256];
  int16_t scale[16], min[16];
  float d, dmin;
};
/// value = d * q[i] + m
struct IntegerBlock32 {
  int16_t q[32];
  float d, m;
};

inline void read_integers(const quant::BlockQ2_K& block, IntegerBlock256& out) {
  out.d = tensor::f16_to_f32(block.d), out.dmin = tensor::f16_to_f32(block.dmin);
  for (int s = 0; s < 16; ++s) out.scale[s] = block.scales[s] & 15, out.min[s] = block.scales[s] >> 4;
  for (int i = 0; i < 256; ++i) out.q[i] = (block.codes[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
}

inline void read_integers(const quant::BlockQ3_K& block, IntegerBlock256& out) {
  out.d = tensor::f16_to_f32(block.d), out.dmin = 0;
  for (int s = 0; s < 16; ++s) {
    out.scale[s] = static_cast<int16_t>(quant::unpack_scale_q3_k(block.scales, s) - 32);
    out.min[s] = 0;
  }
  for (int i = 0; i < 256; ++i) {
    const int low = (block.codes[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
    const int high = (block.high_bits[i % 32] >> (i / 32)) & 1;
    out.q[i] = static_cast<int16_t>((low | (high << 2)) - 4);
  }
}

template <typename Block>
void read_scales_k4(const Block& block, IntegerBlock256& out) {
  out.d = tensor::f16_to_f32(block.d), out.dmin = tensor::f16_to_f32(block.dmin);
  for (int s = 0; s < 8; ++s) {
    uint8_t scale, min;
    quant::unpack_scale_k4(block.scales, s, scale, min);
    out.scale[2 * s] = out.scale[2 * s + 1] = scale;
    out.min[2 * s] = out.min[2 * s + 1] = min;
  }
}

inline void read_integers(const quant::BlockQ4_K& block, IntegerBlock256& out) {
  read_scales_k4(block, out);
  for (int i = 0; i < 256; ++i) out.q[i] = (block.codes[32 * (i / 64) + i % 32] >> (4 * (i % 64 / 32))) & 15;
}

inline void read_integers(const quant::BlockQ5_K& block, IntegerBlock256& out) {
  read_scales_k4(block, out);
  for (int i = 0; i < 256; ++i) {
    const int low = (block.codes[32 * (i / 64) + i % 32] >> (4 * (i % 64 / 32))) & 15;
    out.q[i] = static_cast<int16_t>(low | (((block.high_bits[i % 32] >> (i / 32)) & 1) << 4));
  }
}

inline void read_integers(const quant::BlockQ6_K& block, IntegerBlock256& out) {
  out.d = tensor::f16_to_f32(block.d), out.dmin = 0;
  for (int s = 0; s < 16; ++s) out.scale[s] = block.scales[s], out.min[s] = 0;
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, part = i % 128 / 32, j = i % 32;
    const int low = (block.low_codes[64 * half + 32 * (part % 2) + j] >> (4 * (part / 2))) & 15;
    const int high = (block.high_codes[32 * half + j] >> (2 * part)) & 3;
    out.q[i] = static_cast<int16_t>((low | (high << 4)) - 32);
  }
}

inline void read_integers(const quant::BlockIQ4_XS& block, IntegerBlock256& out) {
  out.d = tensor::f16_to_f32(block.d), out.dmin = 0;
  for (int s = 0; s < 16; ++s) {
    out.scale[s] = static_cast<int16_t>(quant::unpack_scale_iq4_xs(block, s / 2) - 32);
    out.min[s] = 0;
  }
  for (int i = 0; i < 256; ++i) {
    const uint8_t code = block.codes[16 * (i / 32) + i % 16];
    out.q[i] = quant::kIq4Values[(i % 32 < 16) ? code & 15 : code >> 4];
  }
}

/// The codebook and ternary formats. Their factor is a power of two, which d takes without being rounded.
template <typename Block>
requires requires(const Block& block, quant::GridIntegers& integers) { quant::read_grid(block, integers); }
void read_integers(const Block& block, IntegerBlock256& out) {
  quant::GridIntegers integers;
  quant::read_grid(block, integers);
  std::memcpy(out.q, integers.q, sizeof out.q), std::memcpy(out.scale, integers.scale, sizeof out.scale);
  std::memset(out.min, 0, sizeof out.min);
  if constexpr (requires { block.d; })
    out.d = tensor::f16_to_f32(block.d) * quant::grid_factor(block);
  else
    out.d = tensor::f16_to_f32(quant::scale_half(block)) * quant::grid_factor(block);
  out.dmin = 0;
}

inline int nibble(const uint8_t* codes, int i) { return i < 16 ? codes[i] & 15 : codes[i - 16] >> 4; }
inline int fifth_bit(const uint8_t* high_bits, int i) { return ((high_bits[i / 8] >> (i % 8)) & 1) << 4; }

inline void read_integers(const quant::BlockQ4_0& block, IntegerBlock32& out) {
  out.d = tensor::f16_to_f32(block.d), out.m = 0;
  for (int i = 0; i < 32; ++i) out.q[i] = static_cast<int16_t>(nibble(block.codes, i) - 8);
}
inline void read_integers(const quant::BlockQ4_1& block, IntegerBlock32& out) {
  out.d = tensor::f16_to_f32(block.d), out.m = tensor::f16_to_f32(block.m);
  for (int i = 0; i < 32; ++i) out.q[i] = static_cast<int16_t>(nibble(block.codes, i));
}
inline void read_integers(const quant::BlockQ5_0& block, IntegerBlock32& out) {
  out.d = tensor::f16_to_f32(block.d), out.m = 0;
  for (int i = 0; i < 32; ++i)
    out.q[i] = static_cast<int16_t>((nibble(block.codes, i) | fifth_bit(block.high_bits, i)) - 16);
}
inline void read_integers(const quant::BlockQ5_1& block, IntegerBlock32& out) {
  out.d = tensor::f16_to_f32(block.d), out.m = tensor::f16_to_f32(block.m);
  for (int i = 0; i < 32; ++i) out.q[i] = static_cast<int16_t>(nibble(block.codes, i) | fifth_bit(block.high_bits, i));
}
inline void read_integers(const quant::BlockQ8_0& block, IntegerBlock32& out) {
  out.d = tensor::f16_to_f32(block.d), out.m = 0;
  for (int i = 0; i < 32; ++i) out.q[i] = block.codes[i];
}
inline void read_integers(const quant::BlockIQ4_NL& block, IntegerBlock32& out) {
  out.d = tensor::f16_to_f32(block.d), out.m = 0;
  for (int i = 0; i < 32; ++i) out.q[i] = quant::kIq4Values[static_cast<size_t>(nibble(block.codes, i))];
}
inline void read_integers(const quant::BlockMXFP4& block, IntegerBlock32& out) {
  out.d = quant::mxfp4_scale(block.exponent), out.m = 0;
  for (int i = 0; i < 32; ++i) out.q[i] = quant::kMxfp4Values[static_cast<size_t>(nibble(block.codes, i))];
}

}  // namespace coterie::kernels
