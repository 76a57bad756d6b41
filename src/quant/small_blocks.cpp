#include <cstring>

#include "quant/formats.h"

// The formats of 32 values a block with one scale: q4_0, q4_1, q5_0, q5_1, q8_0.
namespace coterie::quant {

using tensor::f16_to_f32;

namespace {
int fifth_bit(const uint8_t* high_bits, int i) { return (high_bits[i / 8] >> (i % 8)) & 1; }
}  // namespace

void decode_blocks(const BlockQ4_0* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b, target += kSmallBlock) {
    const float d = f16_to_f32(source[b].d);
    for (int j = 0; j < 16; ++j) {
      const int codes = source[b].codes[j];
      target[j] = d * static_cast<float>((codes & 15) - 8);
      target[j + 16] = d * static_cast<float>((codes >> 4) - 8);
    }
  }
}

void decode_blocks(const BlockQ4_1* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b, target += kSmallBlock) {
    const float d = f16_to_f32(source[b].d), m = f16_to_f32(source[b].m);
    for (int j = 0; j < 16; ++j) {
      const int codes = source[b].codes[j];
      target[j] = d * static_cast<float>(codes & 15) + m;
      target[j + 16] = d * static_cast<float>(codes >> 4) + m;
    }
  }
}

void decode_blocks(const BlockQ5_0* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b, target += kSmallBlock) {
    const float d = f16_to_f32(source[b].d);
    for (int j = 0; j < 16; ++j) {
      const int codes = source[b].codes[j];
      target[j] = d * static_cast<float>(((codes & 15) | fifth_bit(source[b].high_bits, j) << 4) - 16);
      target[j + 16] = d * static_cast<float>(((codes >> 4) | fifth_bit(source[b].high_bits, j + 16) << 4) - 16);
    }
  }
}

void decode_blocks(const BlockQ5_1* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b, target += kSmallBlock) {
    const float d = f16_to_f32(source[b].d), m = f16_to_f32(source[b].m);
    for (int j = 0; j < 16; ++j) {
      const int codes = source[b].codes[j];
      target[j] = d * static_cast<float>((codes & 15) | fifth_bit(source[b].high_bits, j) << 4) + m;
      target[j + 16] = d * static_cast<float>((codes >> 4) | fifth_bit(source[b].high_bits, j + 16) << 4) + m;
    }
  }
}

void decode_blocks(const BlockQ8_0* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b, target += kSmallBlock) {
    const float d = f16_to_f32(source[b].d);
    for (int j = 0; j < kSmallBlock; ++j) target[j] = static_cast<float>(source[b].codes[j]) * d;
  }
}

}  // namespace coterie::quant
