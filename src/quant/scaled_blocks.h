#pragma once

#include <cstdint>

#include "quant/blocks.h"

// What quantised safetensors hold (FP8, GPTQ, AWQ, compressed-tensors), a block with its scale in front of its codes.
// No file has them so: checkpoint/quantized_source.h puts them together, and only values move. A group of a file is one
// or more blocks.
namespace coterie::quant {

// value = scale * code, codes being 8-bit floats (E4M3, never NaN), the product in f32 and then rounded (Rounding).
template <int kValuesOfBlock>
struct __attribute__((packed)) BlockFp8 {
  static constexpr int kValues = kValuesOfBlock;
  float scale;
  uint8_t codes[kValues];
};

// value = scale * (q - zero), rounded to the type of the scale, f16 or bf16. Values of 4 bits: the even one of two in
// the low nibble.
template <int kBitsOfCode, int kValuesOfBlock>
struct __attribute__((packed)) BlockInt {
  static constexpr int kBits = kBitsOfCode, kValues = kValuesOfBlock;
  uint16_t scale;
  int16_t zero;
  uint8_t codes[kValues * kBits / 8];
};

static_assert(sizeof(BlockFp8<64>) == 68);
static_assert(sizeof(BlockInt<4, 64>) == 36 && sizeof(BlockInt<4, 32>) == 20);
static_assert(sizeof(BlockInt<8, 64>) == 68 && sizeof(BlockInt<8, 32>) == 36);

/// What a product is rounded to: the type in which the reference computes it.
enum class Rounding { none, f16, bf16 };

inline constexpr uint8_t kFp8Nan = 0x7f;  // with either sign

/// An 8-bit float (E4M3 without infinities: bias 7, three bits of mantissa).
inline float fp8_to_f32(uint8_t code) {
  const unsigned half = (code & 0x7fu) << 7 | (code & 0x80u) << 8;  // 2^-8 of it, as f16
  return 256 * tensor::f16_to_f32(static_cast<uint16_t>(half));
}

inline float rounded(float value, Rounding rounding) {
  switch (rounding) {
    case Rounding::f16: return tensor::f16_to_f32(tensor::f32_to_f16(value));
    case Rounding::bf16: return tensor::bf16_to_f32(tensor::f32_to_bf16(value));
    case Rounding::none: break;
  }
  return value;
}

}  // namespace coterie::quant
