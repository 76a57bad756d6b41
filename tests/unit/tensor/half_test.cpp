#include "tensor/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "base/rng.h"

namespace coterie::tensor {
namespace {

// The definition of IEEE binary16, by arithmetic instead of bits.
double f16_by_definition(uint16_t half) {
  const int exponent = (half >> 10) & 31, fraction = half & 1023;
  const double sign = half & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

TEST(Half, All65536DecodeByDefinition) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint16_t half = static_cast<uint16_t>(i);
    const float found = f16_to_f32(half);
    const double expected = f16_by_definition(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << i;
    } else {
      ASSERT_EQ(found, expected) << i;
      ASSERT_EQ(std::signbit(found), (half & 0x8000) != 0) << i;
    }
    ASSERT_EQ(std::bit_cast<uint32_t>(bf16_to_f32(half)), i << 16);
  }
}

TEST(Half, All65536SurviveTheRoundTrip) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint16_t half = static_cast<uint16_t>(i);
    const bool nan16 = (half & 0x7fff) > 0x7c00, nan_brain = (half & 0x7fff) > 0x7f80;
    ASSERT_EQ(f32_to_f16(f16_to_f32(half)), nan16 ? half | 0x200 : half) << i;
    ASSERT_EQ(f32_to_bf16(bf16_to_f32(half)), nan_brain ? half | 0x40 : half) << i;
  }
}

// Between two neighbours and at the middle between them: the nearer, and on a tie the even one.
template <typename Encode, typename Decode>
void check_rounding(Encode encode, Decode decode, uint16_t largest) {
  for (uint32_t i = 0; i < largest; ++i) {
    const uint16_t low = static_cast<uint16_t>(i), high = static_cast<uint16_t>(i + 1);
    const double a = decode(low), b = decode(high), middle = (a + b) / 2;
    const float tie = static_cast<float>(middle);
    if (tie != middle) continue;  // the smallest bf16 have no float between them
    for (const int sign : {1, -1}) {
      const uint16_t bit = sign < 0 ? 0x8000 : 0;
      const float signed_tie = static_cast<float>(sign) * tie;
      ASSERT_EQ(encode(signed_tie), (i % 2 == 0 ? low : high) | bit) << i;
      ASSERT_EQ(encode(std::nextafter(signed_tie, 0.0f)), low | bit) << i;
      ASSERT_EQ(encode(std::nextafter(signed_tie, static_cast<float>(sign) * INFINITY)), high | bit) << i;
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  check_rounding(f32_to_f16, f16_to_f32, 0x7bff);
  check_rounding(f32_to_bf16, bf16_to_f32, 0x7f7f);
}

TEST(Half, OverflowAndUnderflow) {
  EXPECT_EQ(f32_to_f16(65504), 0x7bff);
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520), 0x7c00) << "half way to 65536 rounds to infinity";
  EXPECT_EQ(f32_to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(f32_to_f16(INFINITY), 0x7c00);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000) << "half the smallest subnormal ties to zero";
  EXPECT_EQ(f32_to_f16(0x1.000002p-25f), 0x0001);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
  EXPECT_EQ(f32_to_f16(1e-45f), 0x0000);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(f32_to_bf16(-0.0f), 0x8000);
}

TEST(Half, NansStayNans) {
  base::Rng rng(1);
  for (int i = 0; i < 10'000; ++i) {
    const uint32_t bits = 0x7f800000u | (rng.bits() & 0x807fffffu) | 1u;
    const float value = std::bit_cast<float>(bits);
    const uint16_t half = f32_to_f16(value), brain = f32_to_bf16(value);
    ASSERT_GT(half & 0x7fff, 0x7c00) << std::hex << bits;
    ASSERT_GT(brain & 0x7fff, 0x7f80) << std::hex << bits;
    ASSERT_EQ(half >> 15, bits >> 31);
    ASSERT_EQ(brain >> 15, bits >> 31);
  }
}

}  // namespace
}  // namespace coterie::tensor
