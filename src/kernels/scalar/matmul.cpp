#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/isa.h"
#include "kernels/matmul/integer_blocks.h"
#include "quant/codec.h"

// The matmul kernels in plain C++: one row of weights at a time, decoded once for all tokens. The oracle of the others.
namespace coterie::kernels::scalar {

namespace {

using tensor::DType;

constexpr int64_t kChunk = 256;  // values summed before they join the row's sum

float dot_floats(const float* w, const float* x, int64_t count) {
  float sum = 0;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, count);
    float chunk = 0;
    for (int64_t i = begin; i < end; ++i) chunk = std::fma(w[i], x[i], chunk);
    sum += chunk;
  }
  return sum;
}

void run_floats(const MatmulTask& task) noexcept {
  float* decoded = reinterpret_cast<float*>(task.scratch);
  for (int64_t r = 0; r < task.rows; ++r) {
    quant::decode(task.dtype, task.weights + r * task.row_stride, decoded, task.cols);
    for (int64_t t = 0; t < task.tokens; ++t)
      task.y[t * task.y_stride + r] = dot_floats(decoded, reinterpret_cast<const float*>(task.x[t]), task.cols);
  }
}
int64_t floats_scratch(DType, int64_t cols) noexcept { return cols * static_cast<int64_t>(sizeof(float)); }

float add_block(const IntegerBlock256& w, const ActivationBlock256& x, bool has_min, float y) {
  int32_t sum = 0, min_sum = 0;
  for (int s = 0; s < 16; ++s) {
    int32_t dot = 0;
    for (int i = 16 * s; i < 16 * s + 16; ++i) dot += int32_t{w.q[i]} * x.q[i];
    sum += w.scale[s] * dot;
    min_sum += int32_t{w.min[s]} * x.sum16[s];
  }
  y = std::fma(w.d * x.d, static_cast<float>(sum), y);
  return has_min ? std::fma(-(w.dmin * x.d), static_cast<float>(min_sum), y) : y;
}

float add_block(const IntegerBlock32& w, const ActivationBlock32& x, bool has_min, float y) {
  int32_t sum = 0;
  for (int i = 0; i < 32; ++i) sum += int32_t{w.q[i]} * x.q[i];
  y = std::fma(w.d * x.d, static_cast<float>(sum), y);
  return has_min ? std::fma(w.m, x.scaled_sum, y) : y;
}

template <typename Block, typename Integers, typename ActivationBlock, bool kHasMin>
void run_blocks(const MatmulTask& task) noexcept {
  const int64_t blocks = task.cols / (sizeof(ActivationBlock::q) / sizeof(int8_t));
  Integers* integers = reinterpret_cast<Integers*>(task.scratch);
  for (int64_t r = 0; r < task.rows; ++r) {
    const Block* row = reinterpret_cast<const Block*>(task.weights + r * task.row_stride);
    for (int64_t b = 0; b < blocks; ++b) read_integers(row[b], integers[b]);
    for (int64_t t = 0; t < task.tokens; ++t) {
      const ActivationBlock* x = reinterpret_cast<const ActivationBlock*>(task.x[t]);
      float y = 0;
      for (int64_t b = 0; b < blocks; ++b) y = add_block(integers[b], x[b], kHasMin, y);
      task.y[t * task.y_stride + r] = y;
    }
  }
}
template <typename Integers>
int64_t blocks_scratch(DType dtype, int64_t cols) noexcept {
  return cols / tensor::info(dtype).block_values * static_cast<int64_t>(sizeof(Integers));
}

template <typename Block, bool kHasMin>
constexpr MatmulKernel blocks256() {
  return {run_blocks<Block, IntegerBlock256, ActivationBlock256, kHasMin>, blocks_scratch<IntegerBlock256>,
          ActivationForm::blocks256};
}
template <typename Block, bool kHasMin>
constexpr MatmulKernel blocks32() {
  return {run_blocks<Block, IntegerBlock32, ActivationBlock32, kHasMin>, blocks_scratch<IntegerBlock32>,
          ActivationForm::blocks32};
}

/// d, and the factor that brings x to [-127, 127]; both by the bits of the largest magnitude, so that a NaN counts as
/// larger than any number.
void block_scale(const float* x, int count, float& d, float& factor) {
  uint32_t largest = 0;
  for (int i = 0; i < count; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  const float magnitude = std::bit_cast<float>(largest);
  if (largest >= 0x7f800000u) {
    d = std::bit_cast<float>(0x7fc00000u), factor = 0;
  } else if (magnitude < kSmallestActivation) {
    d = 0, factor = 0;
  } else {
    d = magnitude / 127.0f, factor = 127.0f / magnitude;
  }
}
int8_t code(float x, float factor) { return factor == 0 ? int8_t{0} : static_cast<int8_t>(std::lrintf(x * factor)); }

void quantise32(const float* x, int64_t count, ActivationBlock32* blocks) noexcept {
  for (int64_t b = 0; b < count / 32; ++b, x += 32) {
    ActivationBlock32& block = blocks[b];
    float factor;
    block_scale(x, 32, block.d, factor);
    int32_t sum = 0;
    for (int i = 0; i < 32; ++i) sum += block.q[i] = code(x[i], factor);
    block.scaled_sum = block.d * static_cast<float>(sum);
    block.offset_sum = -128 * sum;
    block.unused = 0;
  }
}

void quantise256(const float* x, int64_t count, ActivationBlock256* blocks) noexcept {
  for (int64_t b = 0; b < count / 256; ++b, x += 256) {
    ActivationBlock256& block = blocks[b];
    float factor;
    block_scale(x, 256, block.d, factor);
    for (int i = 0; i < 256; ++i) block.q[i] = code(x[i], factor);
    for (int s = 0; s < 16; ++s) {
      int sum = 0;
      for (int i = 16 * s; i < 16 * s + 16; ++i) sum += block.q[i];
      block.sum16[s] = static_cast<int16_t>(sum);
    }
    std::memset(block.offsets, 0, sizeof block.offsets);
    for (int i = 0; i < 256; ++i)
      block.offsets[i / 16][i / 2 % 2] = static_cast<int16_t>(block.offsets[i / 16][i / 2 % 2] - 32 * block.q[i]);
    for (int s = 0; s < 8; ++s) block.sum32[s] = static_cast<int16_t>(block.sum16[2 * s] + block.sum16[2 * s + 1]);
    std::memset(block.unused, 0, sizeof block.unused);
  }
}

int64_t peak_f32(int64_t rounds, float* sink) noexcept {
  float a[8] = {}, b = 0.5f;
  for (int64_t round = 0; round < rounds; ++round) {
    for (float& lane : a) lane = lane * b + b;
    asm volatile("" : "+m"(a), "+x"(b));
  }
  *sink = a[0];
  return 8;
}
int64_t peak_int8(int64_t rounds, int32_t* sink) noexcept {
  int32_t a[8] = {}, b = 3;
  for (int64_t round = 0; round < rounds; ++round) {
    for (int32_t& lane : a) lane += b * b;
    asm volatile("" : "+m"(a), "+r"(b));
  }
  *sink = a[0];
  return 8;
}
uint64_t read(const std::byte* data, int64_t bytes, ReadAhead) noexcept {
  uint64_t digest[4] = {};
  for (int64_t i = 0; i < bytes; i += 32) {
    uint64_t words[4];
    std::memcpy(words, data + i, 32);
    for (int lane = 0; lane < 4; ++lane) digest[lane] ^= words[lane];
  }
  return digest[0] ^ digest[1] ^ digest[2] ^ digest[3];
}

}  // namespace

MatmulKernels matmul_kernels() {
  MatmulKernels kernels;
  kernels.panel_rows = 1;
  for (int i = 0; i < tensor::kDTypes; ++i)
    if (tensor::info(static_cast<DType>(i)).weight)
      kernels.exact[static_cast<size_t>(i)] = {run_floats, floats_scratch, ActivationForm::floats};
  const auto fast = [&](DType dtype) -> MatmulKernel& { return kernels.fast[static_cast<size_t>(dtype)]; };
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    fast(dtype) = {run_floats, floats_scratch, ActivationForm::floats};
  for (int i = 0; i < tensor::kDTypes; ++i)
    if (const DType dtype = static_cast<DType>(i); quant::is_scaled(dtype))
      fast(dtype) = {run_floats, floats_scratch, ActivationForm::floats};
  fast(DType::q4_0) = blocks32<quant::BlockQ4_0, false>();
  fast(DType::q4_1) = blocks32<quant::BlockQ4_1, true>();
  fast(DType::q5_0) = blocks32<quant::BlockQ5_0, false>();
  fast(DType::q5_1) = blocks32<quant::BlockQ5_1, true>();
  fast(DType::q8_0) = blocks32<quant::BlockQ8_0, false>();
  fast(DType::iq4_nl) = blocks32<quant::BlockIQ4_NL, false>();
  fast(DType::mxfp4) = blocks32<quant::BlockMXFP4, false>();
  fast(DType::q2_k) = blocks256<quant::BlockQ2_K, true>();
  fast(DType::q3_k) = blocks256<quant::BlockQ3_K, false>();
  fast(DType::q4_k) = blocks256<quant::BlockQ4_K, true>();
  fast(DType::q5_k) = blocks256<quant::BlockQ5_K, true>();
  fast(DType::q6_k) = blocks256<quant::BlockQ6_K, false>();
  fast(DType::iq4_xs) = blocks256<quant::BlockIQ4_XS, false>();
  fast(DType::iq2_xxs) = blocks256<quant::BlockIQ2_XXS, false>();
  fast(DType::iq2_xs) = blocks256<quant::BlockIQ2_XS, false>();
  fast(DType::iq2_s) = blocks256<quant::BlockIQ2_S, false>();
  fast(DType::iq3_xxs) = blocks256<quant::BlockIQ3_XXS, false>();
  fast(DType::iq3_s) = blocks256<quant::BlockIQ3_S, false>();
  fast(DType::iq1_s) = blocks256<quant::BlockIQ1_S, false>();
  fast(DType::iq1_m) = blocks256<quant::BlockIQ1_M, false>();
  fast(DType::tq1_0) = blocks256<quant::BlockTQ1_0, false>();
  fast(DType::tq2_0) = blocks256<quant::BlockTQ2_0, false>();
  kernels.quantise32 = quantise32;
  kernels.quantise256 = quantise256;
  kernels.peak_f32 = peak_f32;
  kernels.peak_int8 = peak_int8;
  kernels.read = read;
  return kernels;
}

}  // namespace coterie::kernels::scalar
