#include "quant/formats.h"
#include "quant/grids.h"

// The formats whose codes point into a codebook (iq1, iq2, iq3), and the ternary ones.
namespace coterie::quant {

using tensor::f16_to_f32;

namespace {

constexpr auto kIq2xxs = spread_grid<8>(kIq2xxsCodes, kIq2Magnitudes, 0);
constexpr auto kIq2xs = spread_grid<8>(kIq2xsCodes, kIq2Magnitudes, 0);
constexpr auto kIq2s = spread_grid<8>(kIq2sCodes, kIq2Magnitudes, 0);
constexpr auto kIq3xxs = spread_grid<4>(kIq3xxsCodes, kIq3xxsMagnitudes, 0);
constexpr auto kIq3s = spread_grid<4>(kIq3sCodes, kIq3sMagnitudes, 0);
constexpr auto kIq1 = spread_grid<8>(kIq1Codes, kIq1Values, 8);  // unsigned: 8 is taken off again

/// Entry `index` of a grid, and the signs of its values in the lowest bits.
template <int kWidth, size_t kBytes>
void put_signed(const std::array<uint8_t, kBytes>& grid, size_t index, unsigned signs, int16_t* q) {
  for (int i = 0; i < kWidth; ++i) {
    const int magnitude = grid[index * kWidth + static_cast<size_t>(i)];
    q[i] = static_cast<int16_t>((signs >> i) & 1 ? -magnitude : magnitude);
  }
}

/// Entry `index` of iq1's grid with its delta.
void put_iq1(size_t index, bool negative, int16_t* q) {
  for (size_t i = 0; i < 8; ++i) q[i] = static_cast<int16_t>(kIq1[index * 8 + i] - 8 + (negative ? -1 : 1));
}

int16_t odd(int scale) { return static_cast<int16_t>(2 * scale + 1); }

}  // namespace

void read_grid(const BlockIQ2_XXS& block, GridIntegers& out) {
  for (int s = 0; s < 8; ++s) {
    const uint32_t indices = block.words[2 * s], word = block.words[2 * s + 1];
    out.scale[2 * s] = out.scale[2 * s + 1] = odd(static_cast<int>(word >> 28));
    for (int j = 0; j < 4; ++j)
      put_signed<8>(kIq2xxs, (indices >> (8 * j)) & 255, eight_signs((word >> (7 * j)) & 127), out.q + 32 * s + 8 * j);
  }
}

void read_grid(const BlockIQ2_XS& block, GridIntegers& out) {
  for (int s = 0; s < 16; ++s) out.scale[s] = odd(nibble_of(block.scales, s));
  for (int e = 0; e < 32; ++e)
    put_signed<8>(kIq2xs, block.codes[e] & 511u, eight_signs(block.codes[e] >> 9), out.q + 8 * e);
}

void read_grid(const BlockIQ2_S& block, GridIntegers& out) {
  for (int s = 0; s < 16; ++s) out.scale[s] = odd(nibble_of(block.scales, s));
  for (int e = 0; e < 32; ++e) {
    const unsigned high = (block.high_bits[e / 4] >> (2 * (e % 4))) & 3u;
    put_signed<8>(kIq2s, block.codes[e] | (high << 8), block.signs[e], out.q + 8 * e);
  }
}

void read_grid(const BlockIQ3_XXS& block, GridIntegers& out) {
  for (int s = 0; s < 8; ++s) {
    const uint32_t word = block.signs_and_scales[s];
    out.scale[2 * s] = out.scale[2 * s + 1] = odd(static_cast<int>(word >> 28));
    for (int j = 0; j < 8; ++j) {
      const unsigned signs = eight_signs((word >> (7 * (j / 2))) & 127);
      put_signed<4>(kIq3xxs, block.codes[8 * s + j], signs >> (4 * (j % 2)), out.q + 32 * s + 4 * j);
    }
  }
}

void read_grid(const BlockIQ3_S& block, GridIntegers& out) {
  for (int s = 0; s < 16; ++s) out.scale[s] = odd(nibble_of(block.scales, s / 2));
  for (int e = 0; e < 64; ++e) {
    const unsigned high = bit_of(block.high_bits, e) ? 256 : 0;
    put_signed<4>(kIq3s, block.codes[e] | high, static_cast<unsigned>(nibble_of(block.signs, e)), out.q + 4 * e);
  }
}

void read_grid(const BlockIQ1_S& block, GridIntegers& out) {
  for (int s = 0; s < 8; ++s) {
    const unsigned head = block.heads[s];
    out.scale[2 * s] = out.scale[2 * s + 1] = odd((head >> 12) & 7);
    for (int j = 0; j < 4; ++j)
      put_iq1(block.codes[4 * s + j] | ((head >> (3 * j)) & 7) << 8, (head & 0x8000) != 0, out.q + 32 * s + 8 * j);
  }
}

void read_grid(const BlockIQ1_M& block, GridIntegers& out) {
  for (int s = 0; s < 16; ++s) out.scale[s] = odd((block.scales[s / 4] >> (3 * (s % 4))) & 7);
  for (int e = 0; e < 32; ++e) {
    const unsigned nibble = static_cast<unsigned>(nibble_of(block.high_bits, e));
    put_iq1(block.codes[e] | (nibble & 7) << 8, (nibble & 8) != 0, out.q + 8 * e);
  }
}

void read_grid(const BlockTQ1_0& block, GridIntegers& out) {
  // What is left of a byte after n digits, in 256ths; its next digit is what thrice as much has before the point.
  const auto digits = [&](uint8_t byte, int count, int step, int16_t* q) {
    for (int n = 0; n < count; ++n, byte = static_cast<uint8_t>(3 * byte), q += step)
      *q = static_cast<int16_t>((3 * byte >> 8) - 1);
  };
  for (int j = 0; j < 32; ++j) digits(block.codes[j], 5, 32, out.q + j);
  for (int j = 0; j < 16; ++j) digits(block.codes[32 + j], 5, 16, out.q + 160 + j);
  for (int j = 0; j < 4; ++j) digits(block.last_codes[j], 4, 4, out.q + 240 + j);
  for (int16_t& scale : out.scale) scale = 1;
}

void read_grid(const BlockTQ2_0& block, GridIntegers& out) {
  for (int i = 0; i < 256; ++i)
    out.q[i] = static_cast<int16_t>(((block.codes[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3) - 1);
  for (int16_t& scale : out.scale) scale = 1;
}

namespace {
// d times the power of two times the scale first, as gguf-py; only this product is rounded, q having at most six bits.
template <typename Block>
void decode_grid(const Block* source, float* target, int64_t blocks) {
  GridIntegers integers;
  for (int64_t b = 0; b < blocks; ++b) {
    read_grid(source[b], integers);
    float d;
    if constexpr (requires { source[b].d; })
      d = f16_to_f32(source[b].d);
    else
      d = f16_to_f32(scale_half(source[b]));
    for (int i = 0; i < kSuperBlock; ++i) {
      const float scale = d * (static_cast<float>(integers.scale[i / 16]) * grid_factor(source[b]));
      *target++ = scale * static_cast<float>(integers.q[i]);
    }
  }
}
}  // namespace

void decode_blocks(const BlockIQ2_XXS* source, float* target, int64_t blocks) { decode_grid(source, target, blocks); }
void decode_blocks(const BlockIQ2_XS* source, float* target, int64_t blocks) { decode_grid(source, target, blocks); }
void decode_blocks(const BlockIQ2_S* source, float* target, int64_t blocks) { decode_grid(source, target, blocks); }
void decode_blocks(const BlockIQ3_XXS* source, float* target, int64_t blocks) { decode_grid(source, target, blocks); }
void decode_blocks(const BlockIQ3_S* source, float* target, int64_t blocks) { decode_grid(source, target, blocks); }
void decode_blocks(const BlockIQ1_S* source, float* target, int64_t blocks) { decode_grid(source, target, blocks); }
void decode_blocks(const BlockIQ1_M* source, float* target, int64_t blocks) { decode_grid(source, target, blocks); }
void decode_blocks(const BlockTQ1_0* source, float* target, int64_t blocks) { decode_grid(source, target, blocks); }
void decode_blocks(const BlockTQ2_0* source, float* target, int64_t blocks) { decode_grid(source, target, blocks); }

}  // namespace coterie::quant
