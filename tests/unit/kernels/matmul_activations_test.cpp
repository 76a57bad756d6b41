#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/table.h"
#include "unit/kernels/random_weights.h"

namespace coterie::kernels {
namespace {

template <typename Block>
std::vector<Block> quantise(const KernelTable& table, const std::vector<float>& x) {
  std::vector<Block> blocks(x.size() / sizeof(Block::q));
  if constexpr (sizeof(Block::q) == 32) {
    table.matmul.quantise32(x.data(), std::ssize(x), blocks.data());
  } else {
    table.matmul.quantise256(x.data(), std::ssize(x), blocks.data());
  }
  return blocks;
}

/// Rows with everything that can go wrong in a block of its own.
std::vector<float> hard_values() {
  std::vector<float> x = test::random_values(256 * 9, 1);
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(x.begin(), 256, 0.0f);
  for (size_t i = 256; i < 512; ++i) x[i] *= 1e-38f;
  for (size_t i = 512; i < 768; ++i) x[i] *= 1e-29f;
  for (size_t i = 768; i < 1024; ++i) x[i] = x[i] * 1e37f;
  x[1024 + 77] = inf, x[1280 + 255] = nan, x[1536] = -inf;
  for (size_t i = 1792; i < 2048; ++i) x[i] = static_cast<float>(i % 255) - 127.0f + 0.5f;  // ties
  return x;
}

template <typename Block>
void expect_good(const std::vector<float>& x, const std::vector<Block>& blocks) {
  constexpr size_t kValues = sizeof(Block::q);
  for (size_t b = 0; b < blocks.size(); ++b) {
    float largest = 0;
    bool finite = true;
    for (size_t i = 0; i < kValues; ++i) {
      finite = finite && std::isfinite(x[b * kValues + i]);
      largest = std::max(largest, std::abs(x[b * kValues + i]));
    }
    if (!finite) {
      EXPECT_TRUE(std::isnan(blocks[b].d));
      continue;
    }
    EXPECT_NEAR(blocks[b].d, largest < kSmallestActivation ? 0 : largest / 127, largest * 1e-6);
    for (size_t i = 0; i < kValues; ++i) {
      EXPECT_LE(std::abs(int{blocks[b].q[i]}), 127);
      const double error = double{blocks[b].d} * blocks[b].q[i] - double{x[b * kValues + i]};
      EXPECT_LE(std::abs(error), largest < kSmallestActivation ? double{largest} : double{largest} / 253.9);
    }
  }
}

TEST(Activations, AreWithinHalfAStep) {
  const std::vector<float> x = hard_values();
  const KernelTable& table = by_name("scalar");
  expect_good(x, quantise<ActivationBlock32>(table, x));
  expect_good(x, quantise<ActivationBlock256>(table, x));
}

TEST(Activations, CarryTheirSums) {
  const std::vector<float> x = test::random_values(512, 2);
  for (const ActivationBlock256& block : quantise<ActivationBlock256>(by_name("scalar"), x)) {
    for (int s = 0; s < 16; ++s) {
      int sum = 0;
      for (int i = 0; i < 16; ++i) sum += block.q[16 * s + i];
      EXPECT_EQ(block.sum16[s], sum);
      int halves[2] = {};
      for (int i = 0; i < 16; ++i) halves[i / 2 % 2] -= 32 * block.q[16 * s + i];
      EXPECT_EQ(block.offsets[s][0], halves[0]);
      EXPECT_EQ(block.offsets[s][1], halves[1]);
    }
    for (int s = 0; s < 8; ++s) EXPECT_EQ(block.sum32[s], block.sum16[2 * s] + block.sum16[2 * s + 1]);
  }
  for (const ActivationBlock32& block : quantise<ActivationBlock32>(by_name("scalar"), x)) {
    int sum = 0;
    for (int8_t q : block.q) sum += q;
    EXPECT_EQ(block.offset_sum, -128 * sum);
    EXPECT_EQ(block.scaled_sum, block.d * static_cast<float>(sum));
  }
}

TEST(Activations, HaveTheSameBytesOnEveryInstructionSet) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<float> x = seed == 0 ? hard_values() : test::random_values(512, seed);
    const auto small = quantise<ActivationBlock32>(by_name("scalar"), x);
    const auto large = quantise<ActivationBlock256>(by_name("scalar"), x);
    for (const Candidate& candidate : candidates()) {
      if (!candidate.usable) continue;
      const auto a = quantise<ActivationBlock32>(*candidate.table, x);
      const auto b = quantise<ActivationBlock256>(*candidate.table, x);
      EXPECT_EQ(std::memcmp(a.data(), small.data(), a.size() * sizeof a[0]), 0) << candidate.table->isa;
      EXPECT_EQ(std::memcmp(b.data(), large.data(), b.size() * sizeof b[0]), 0) << candidate.table->isa;
    }
  }
}

}  // namespace
}  // namespace coterie::kernels
