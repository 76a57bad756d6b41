// Rows of activations to int8, by the same arithmetic as scalar/matmul.cpp.
#pragma once

struct BlockScale {
  float d, factor;  // x ~ d * round(x * factor); factor 0: all codes are 0
};

/// By the bits of the largest magnitude, so that a NaN counts as larger than any number.
template <int kCount>
COTERIE_INLINE BlockScale block_scale(const float* x) {
  Vi largest = zero_int();
  COTERIE_UNROLL
  for (int i = 0; i < kCount; i += kWidth)
    largest = max_unsigned(largest, bits_and(as_int(load(x + i)), set_int(0x7fffffff)));
  const uint32_t bits = reduce_max_unsigned(largest);
  float magnitude;
  __builtin_memcpy(&magnitude, &bits, 4);
  if (bits >= 0x7f800000u) return {__builtin_nanf(""), 0};
  if (magnitude < kSmallestActivation) return {0, 0};
  return {magnitude / 127.0f, 127.0f / magnitude};
}

/// 16 values to q; returns their sum.
COTERIE_INLINE int32_t quantise16(const float* x, Vf factor, int8_t* q) {
  Vi sum = zero_int();
  COTERIE_UNROLL
  for (int i = 0; i < 16; i += kWidth) {
    const Vi code = round_to_int(mul(load(x + i), factor));
    store_as_bytes(q + i, code);
    sum = add_int(sum, code);
  }
  return reduce_add(sum);
}

/// ActivationBlock256::offsets of 16 values.
COTERIE_INLINE void sum_pairs(const int8_t* q, int16_t* offsets) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
  __m128i sum = _mm_maddubs_epi16(_mm_set1_epi8(32), codes);
  sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0xb1));
  const int halves = _mm_cvtsi128_si32(_mm_sub_epi16(_mm_setzero_si128(), sum));
  __builtin_memcpy(offsets, &halves, 4);
}

void quantise32(const float* x, int64_t count, ActivationBlock32* blocks) noexcept {
  for (int64_t b = 0; b < count / 32; ++b, x += 32) {
    ActivationBlock32& block = blocks[b];
    const BlockScale scale = block_scale<32>(x);
    block.d = scale.d;
    int32_t sum = 0;
    if (scale.factor == 0) {
      __builtin_memset(block.q, 0, sizeof block.q);
    } else {
      const Vf factor = set(scale.factor);
      sum = quantise16(x, factor, block.q) + quantise16(x + 16, factor, block.q + 16);
    }
    block.scaled_sum = block.d * static_cast<float>(sum);
    block.offset_sum = -128 * sum;
    block.unused = 0;
  }
}

void quantise256(const float* x, int64_t count, ActivationBlock256* blocks) noexcept {
  for (int64_t b = 0; b < count / 256; ++b, x += 256) {
    ActivationBlock256& block = blocks[b];
    const BlockScale scale = block_scale<256>(x);
    __builtin_memset(&block, 0, sizeof block);
    block.d = scale.d;
    if (scale.factor == 0) continue;
    const Vf factor = set(scale.factor);
    for (int s = 0; s < 16; ++s)
      block.sum16[s] = static_cast<int16_t>(quantise16(x + 16 * s, factor, block.q + 16 * s));
    for (int s = 0; s < 16; ++s) sum_pairs(block.q + 16 * s, block.offsets[s]);
    for (int s = 0; s < 8; ++s) block.sum32[s] = static_cast<int16_t>(block.sum16[2 * s] + block.sum16[2 * s + 1]);
  }
}
