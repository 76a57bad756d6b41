#include "quant/scaled_blocks.h"

#include "quant/formats.h"

// Decoding of the blocks that safetensors are put together to.
namespace coterie::quant {

template <int kValues>
void decode_fp8(const BlockFp8<kValues>* source, float* target, int64_t blocks, Rounding rounding) {
  for (int64_t b = 0; b < blocks; ++b)
    for (const uint8_t code : source[b].codes) *target++ = rounded(fp8_to_f32(code) * source[b].scale, rounding);
}

template <int kBits, int kValues>
void decode_int(const BlockInt<kBits, kValues>* source, float* target, int64_t blocks, Rounding rounding) {
  for (int64_t b = 0; b < blocks; ++b) {
    const uint16_t bits = source[b].scale;
    const float scale = rounding == Rounding::f16 ? tensor::f16_to_f32(bits) : tensor::bf16_to_f32(bits);
    for (int i = 0; i < kValues; ++i) {
      const int q = kBits == 8 ? source[b].codes[i] : source[b].codes[i / 2] >> (4 * (i % 2)) & 15;
      *target++ = rounded(scale * static_cast<float>(q - source[b].zero), rounding);
    }
  }
}

template void decode_fp8(const BlockFp8<64>*, float*, int64_t, Rounding);
template void decode_int(const BlockInt<4, 64>*, float*, int64_t, Rounding);
template void decode_int(const BlockInt<4, 32>*, float*, int64_t, Rounding);
template void decode_int(const BlockInt<8, 64>*, float*, int64_t, Rounding);
template void decode_int(const BlockInt<8, 32>*, float*, int64_t, Rounding);

}  // namespace coterie::quant
