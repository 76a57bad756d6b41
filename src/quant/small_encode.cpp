#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "quant/fit.h"
#include "quant/formats.h"
#include "tensor/half.h"

// Encoding of the formats of 32 values. Without importance: what gguf-py's `quantize` computes, to the bit, which is
// also ggml's reference. With importance: the scale (and min) of least weighted error.
namespace coterie::quant {

using tensor::f16_to_f32;

namespace {

// gguf-py's 1/d, which for d = 0 is 0; and for a d so small that 1/d is infinite, where gguf-py has no defined result.
float reciprocal(float d) {
  const float inverse = 1 / d;
  return std::isfinite(inverse) ? inverse : 0;
}

float signed_extreme(const float* x) {
  float extreme = 0;
  for (int i = 0; i < kSmallBlock; ++i)
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  return extreme;
}

int truncated(float v, int top) { return std::clamp(static_cast<int>(v), 0, top); }

void pack_nibbles(const int* q, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) codes[j] = static_cast<uint8_t>((q[j] & 15) | (q[j + 16] & 15) << 4);
}
void pack_fifth_bits(const int* q, uint8_t* high_bits) {
  std::fill_n(high_bits, 4, uint8_t{0});
  for (int i = 0; i < kSmallBlock; ++i)
    high_bits[i / 8] = static_cast<uint8_t>(high_bits[i / 8] | (q[i] >> 4) << (i % 8));
}

/// Codes 0 .. 2 * kHalf - 1 around kHalf, and the scale as it will be stored.
template <int kHalf>
uint16_t encode_centred(const float* x, const float* importance, int* q) {
  if (!importance) {
    const float d = signed_extreme(x) / -kHalf, inverse = reciprocal(d);
    for (int i = 0; i < kSmallBlock; ++i) q[i] = truncated(x[i] * inverse + (kHalf + 0.5f), 2 * kHalf - 1);
    return checked_half(d);
  }
  using Levels = IntegerLevels<-kHalf, kHalf - 1>;
  const uint16_t d = checked_half(fit_scale<Levels>(x, importance, kSmallBlock, 24));
  const float inverse = reciprocal(f16_to_f32(d));
  for (int i = 0; i < kSmallBlock; ++i) q[i] = static_cast<int>(Levels::nearest(x[i] * inverse)) + kHalf;
  return d;
}

struct Halves {
  uint16_t d, m;
};

template <int kTop>
Halves encode_affine(const float* x, const float* importance, int* q) {
  if (!importance) {
    const auto [low, high] = std::minmax_element(x, x + kSmallBlock);
    const float d = (*high - *low) / kTop, inverse = reciprocal(d), min = *low;
    for (int i = 0; i < kSmallBlock; ++i) q[i] = truncated((x[i] - min) * inverse + 0.5f, kTop);
    return {checked_half(d), checked_half(min)};
  }
  // fit_affine wants a min that is not above 0, which m of this format may be: shift, fit, shift back.
  const float shift = std::max(0.0f, *std::min_element(x, x + kSmallBlock));
  float shifted[kSmallBlock];
  for (int i = 0; i < kSmallBlock; ++i) shifted[i] = x[i] - shift;
  const Affine fit = fit_affine<kTop>(shifted, importance, kSmallBlock, 16);
  const Halves stored{checked_half(fit.d), checked_half(shift - fit.m)};
  const float inverse = reciprocal(f16_to_f32(stored.d)), min = f16_to_f32(stored.m);
  for (int i = 0; i < kSmallBlock; ++i) q[i] = static_cast<int>(AffineLevels<kTop>::nearest((x[i] - min) * inverse));
  return stored;
}

uint8_t nearest_mxfp4(float x, float scale) {
  uint8_t best = 0;
  float best_error = std::abs(scale * kMxfp4Values[0] - x);
  for (uint8_t code = 1; code < 16; ++code) {
    const float error = std::abs(scale * kMxfp4Values[code] - x);
    if (error < best_error) best = code, best_error = error;
  }
  return best;
}

}  // namespace

void encode_block(const float* x, const float* importance, BlockQ4_0& block) {
  int q[kSmallBlock];
  block.d = encode_centred<8>(x, importance, q);
  pack_nibbles(q, block.codes);
}

void encode_block(const float* x, const float* importance, BlockQ5_0& block) {
  int q[kSmallBlock];
  block.d = encode_centred<16>(x, importance, q);
  pack_nibbles(q, block.codes);
  pack_fifth_bits(q, block.high_bits);
}

void encode_block(const float* x, const float* importance, BlockQ4_1& block) {
  int q[kSmallBlock];
  const Halves stored = encode_affine<15>(x, importance, q);
  block.d = stored.d, block.m = stored.m;
  pack_nibbles(q, block.codes);
}

void encode_block(const float* x, const float* importance, BlockQ5_1& block) {
  int q[kSmallBlock];
  const Halves stored = encode_affine<31>(x, importance, q);
  block.d = stored.d, block.m = stored.m;
  pack_nibbles(q, block.codes);
  pack_fifth_bits(q, block.high_bits);
}

void encode_block(const float* x, const float* importance, BlockQ8_0& block) {
  if (importance) {
    using Levels = IntegerLevels<-127, 127>;
    block.d = checked_half(fit_scale<Levels>(x, importance, kSmallBlock, 24));
    const float inverse = reciprocal(f16_to_f32(block.d));
    for (int i = 0; i < kSmallBlock; ++i) block.codes[i] = static_cast<int8_t>(Levels::nearest(x[i] * inverse));
    return;
  }
  const float d = largest_magnitude(x, kSmallBlock) / 127, inverse = reciprocal(d);
  block.d = checked_half(d);
  for (int i = 0; i < kSmallBlock; ++i) block.codes[i] = static_cast<int8_t>(std::round(x[i] * inverse));
}

void encode_block(const float* x, const float* importance, BlockMXFP4& block) {
  // log2f as the reference has it: just below a power of two it may round up, and so must this.
  const float largest = largest_magnitude(x, kSmallBlock);
  const int reference = largest > 0 ? std::max(0, static_cast<int>(std::floor(std::log2(largest))) - 2 + 127) : 0;
  int exponent = reference;
  if (importance) {
    float best_error = INFINITY;
    for (int candidate = std::max(0, reference - 1); candidate <= std::min(254, reference + 1); ++candidate) {
      const float scale = mxfp4_scale(static_cast<uint8_t>(candidate));
      float error = 0;
      for (int i = 0; i < kSmallBlock; ++i) {
        const float rest = x[i] - scale * kMxfp4Values[nearest_mxfp4(x[i], scale)];
        error += importance[i] * rest * rest;
      }
      if (error < best_error) best_error = error, exponent = candidate;
    }
  }
  block.exponent = static_cast<uint8_t>(exponent);
  const float scale = mxfp4_scale(block.exponent);
  int q[kSmallBlock];
  for (int i = 0; i < kSmallBlock; ++i) q[i] = nearest_mxfp4(x[i], scale);
  pack_nibbles(q, block.codes);
}

}  // namespace coterie::quant
