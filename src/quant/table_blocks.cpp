#include "quant/formats.h"

// The formats whose codes point into a table of values: iq4_nl, iq4_xs, mxfp4.
namespace coterie::quant {

using tensor::f16_to_f32;

namespace {
void decode_nibbles(const uint8_t* codes, const std::array<int8_t, 16>& values, float d, float* target) {
  for (int j = 0; j < 16; ++j) {
    target[j] = d * static_cast<float>(values[codes[j] & 15]);
    target[j + 16] = d * static_cast<float>(values[codes[j] >> 4]);
  }
}
}  // namespace

void decode_blocks(const BlockIQ4_NL* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b, target += kSmallBlock)
    decode_nibbles(source[b].codes, kIq4Values, f16_to_f32(source[b].d), target);
}

void decode_blocks(const BlockIQ4_XS* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b) {
    const float d = f16_to_f32(source[b].d);
    for (int s = 0; s < 8; ++s, target += 32)
      decode_nibbles(source[b].codes + 16 * s, kIq4Values,
                     d * static_cast<float>(unpack_scale_iq4_xs(source[b], s) - 32), target);
  }
}

void decode_blocks(const BlockMXFP4* source, float* target, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b, target += kSmallBlock)
    decode_nibbles(source[b].codes, kMxfp4Values, mxfp4_scale(source[b].exponent), target);
}

}  // namespace coterie::quant
