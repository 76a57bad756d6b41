#include "quant/formats.h"

// Decoding of the super-block formats q2_k .. q6_k.
namespace coterie::quant {

using tensor::f16_to_f32;

void decode_blocks(const BlockQ2_K* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b) {
    const BlockQ2_K& block = source[b];
    const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
    for (int s = 0; s < 16; ++s, target += 16) {
      const float scale = d * static_cast<float>(block.scales[s] & 15);
      const float min = dmin * static_cast<float>(block.scales[s] >> 4);
      const uint8_t* codes = block.codes + 32 * (s / 8) + 16 * (s % 2);
      const int shift = 2 * (s % 8 / 2);
      for (int j = 0; j < 16; ++j) target[j] = scale * static_cast<float>((codes[j] >> shift) & 3) - min;
    }
  }
}

void decode_blocks(const BlockQ3_K* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b) {
    const BlockQ3_K& block = source[b];
    const float d = f16_to_f32(block.d);
    for (int s = 0; s < 16; ++s, target += 16) {
      const float scale = d * static_cast<float>(unpack_scale_q3_k(block.scales, s) - 32);
      const uint8_t* codes = block.codes + 32 * (s / 8) + 16 * (s % 2);
      const uint8_t* high_bits = block.high_bits + 16 * (s % 2);
      const int shift = 2 * (s % 8 / 2), high_shift = s / 2;
      for (int j = 0; j < 16; ++j) {
        const int q = ((codes[j] >> shift) & 3) | (((high_bits[j] >> high_shift) & 1) << 2);
        target[j] = scale * static_cast<float>(q - 4);
      }
    }
  }
}

void decode_blocks(const BlockQ4_K* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b) {
    const BlockQ4_K& block = source[b];
    const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
    for (int s = 0; s < 8; ++s, target += 32) {
      uint8_t small_scale, small_min;
      unpack_scale_k4(block.scales, s, small_scale, small_min);
      const float scale = d * static_cast<float>(small_scale), min = dmin * static_cast<float>(small_min);
      const uint8_t* codes = block.codes + 32 * (s / 2);
      const int shift = 4 * (s % 2);
      for (int j = 0; j < 32; ++j) target[j] = scale * static_cast<float>((codes[j] >> shift) & 15) - min;
    }
  }
}

void decode_blocks(const BlockQ5_K* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b) {
    const BlockQ5_K& block = source[b];
    const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
    for (int s = 0; s < 8; ++s, target += 32) {
      uint8_t small_scale, small_min;
      unpack_scale_k4(block.scales, s, small_scale, small_min);
      const float scale = d * static_cast<float>(small_scale), min = dmin * static_cast<float>(small_min);
      const uint8_t* codes = block.codes + 32 * (s / 2);
      const int shift = 4 * (s % 2);
      for (int j = 0; j < 32; ++j) {
        const int q = ((codes[j] >> shift) & 15) | (((block.high_bits[j] >> s) & 1) << 4);
        target[j] = scale * static_cast<float>(q) - min;
      }
    }
  }
}

void decode_blocks(const BlockQ6_K* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b) {
    const BlockQ6_K& block = source[b];
    const float d = f16_to_f32(block.d);
    for (int s = 0; s < 16; ++s, target += 16) {
      const float scale = d * static_cast<float>(block.scales[s]);
      const int half = s / 8, part = s % 8 / 2, first = 16 * (s % 2);
      const uint8_t* low = block.low_codes + 64 * half + 32 * (part % 2) + first;
      const uint8_t* high = block.high_codes + 32 * half + first;
      const int low_shift = 4 * (part / 2), high_shift = 2 * part;
      for (int j = 0; j < 16; ++j) {
        const int q = ((low[j] >> low_shift) & 15) | (((high[j] >> high_shift) & 3) << 4);
        target[j] = scale * static_cast<float>(q - 32);
      }
    }
  }
}

}  // namespace coterie::quant
