#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace coterie::base {
namespace {

// Random123's known answers for philox4x32-10 (kat_vectors).
TEST(Philox, KnownAnswers) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox::block(0, 0, 0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint64_t ones = ~uint64_t{0};
  EXPECT_EQ(Philox::block(ones, ones, ones), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // counter {243f6a88 85a308d3 13198a2e 03707344}, key {a4093822 299f31d0}, least significant word first
  EXPECT_EQ(Philox::block(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, IsAFunctionOfKeyStreamAndPosition) {
  Rng one(5, 1), same(5, 1), other_key(6, 1), other_stream(5, 2);
  int equal_key = 0, equal_stream = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint32_t value = one.bits();
    ASSERT_EQ(value, same.bits());
    equal_key += value == other_key.bits();
    equal_stream += value == other_stream.bits();
  }
  EXPECT_LE(equal_key, 1);
  EXPECT_LE(equal_stream, 1);
  Rng copy = one;
  EXPECT_EQ(copy.bits(), one.bits()) << "a copy goes on from the same place";
}

TEST(Rng, UniformFillsTheUnitInterval) {
  Rng rng(1);
  std::vector<int> counts(16);
  double sum = 0;
  constexpr int kDraws = 160'000;
  for (int i = 0; i < kDraws; ++i) {
    const float value = rng.uniform();
    ASSERT_GE(value, 0.0f);
    ASSERT_LT(value, 1.0f);
    ++counts[static_cast<size_t>(value * 16)];
    sum += value;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  double chi = 0;
  for (const int count : counts) chi += (count - 10'000.0) * (count - 10'000.0) / 10'000.0;
  EXPECT_LT(chi, 45);  // 15 degrees of freedom: the chance of more is 1e-4
  for (int i = 0; i < 1000; ++i) {
    const double value = rng.uniform_double();
    ASSERT_TRUE(value >= 0 && value < 1);
  }
}

TEST(Rng, NormalHasItsMoments) {
  Rng rng(2);
  constexpr int kDraws = 400'000;
  double sum = 0, squares = 0, fourth = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = rng.normal();
    ASSERT_TRUE(std::isfinite(value));
    sum += value, squares += value * value, fourth += value * value * value * value;
  }
  EXPECT_NEAR(sum / kDraws, 0, 5 / std::sqrt(kDraws));
  EXPECT_NEAR(squares / kDraws, 1, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(fourth / kDraws, 3, 5 * std::sqrt(96.0 / kDraws));
}

TEST(Rng, BelowIsEven) {
  Rng rng(3);
  std::vector<int> counts(7);
  for (int i = 0; i < 70'000; ++i) ++counts[rng.below(7)];
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 5 * std::sqrt(10'000));
  for (int i = 0; i < 100; ++i) ASSERT_EQ(rng.below(1), 0u);
}

}  // namespace
}  // namespace coterie::base
