#include <gtest/gtest.h>

#include "tensor/half.h"
#include "unit/kernels/vector_harness.h"

// Angles, rotations and 16-bit conversions.
namespace coterie::kernels {
namespace {

using namespace test;

TEST(VectorRope, AnglesAreExactToF32Rounding) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 32, 48, 64}) {
      Row<float> frequency(n, n), cosine(n, n + 1), sine(n, n + 2);
      for (int64_t i = 0; i < n; ++i) {
        frequency[i] = 1 / std::pow(10000.0f, static_cast<float>(2 * i) / static_cast<float>(2 * n));
      }
      for (const float position :
           {0.0f, 1.0f, 2.0f, 3.0f, 5.0f, 7.0f, 100.0f, 4095.0f, 32768.0f, 131071.0f, 1048575.0f}) {
        table->vector.rope_angles(frequency.data(), position, 1, cosine.data(), sine.data(), n);
        for (int64_t i = 0; i < n; ++i) {
          const double angle = position * frequency[i];  // rounded to f32 first, as the reference has it
          // Half a unit from rounding, and what 1e-14 absolute is of a value near a zero of the function.
          ASSERT_NEAR(cosine[i], std::cos(angle), 0.5001 * 0x1p-23 * std::fabs(std::cos(angle)) + 1e-13)
              << table->isa << ", angle " << angle;
          ASSERT_NEAR(sine[i], std::sin(angle), 0.5001 * 0x1p-23 * std::fabs(std::sin(angle)) + 1e-13)
              << table->isa << ", angle " << angle;
        }
        ASSERT_TRUE(frequency.intact() && cosine.intact() && sine.intact());
      }
      table->vector.rope_angles(frequency.data(), 3, 1.25f, cosine.data(), sine.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(cosine[i], static_cast<float>(std::cos(static_cast<double>(3 * frequency[i]))) * 1.25f);
      }
    }
  }
}

TEST(VectorRope, TurnsPairs) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t half : lengths(1)) {
      const auto key = static_cast<uint64_t>(half);
      Row<float> c = normal_row(half, key), s = normal_row(half, key + 1), x = normal_row(2 * half, key + 2);
      Row<float> halves = normal_row(2 * half, key + 2), pairs = normal_row(2 * half, key + 2);
      table->vector.rope_half(halves.data(), c.data(), s.data(), half);
      table->vector.rope_interleaved(pairs.data(), c.data(), s.data(), half);
      for (int64_t i = 0; i < half; ++i) {
        const auto repacked = [&](float a, float b, bool second) {
          return second ? b * c[i] + a * s[i] : a * c[i] - b * s[i];
        };
        ASSERT_EQ(halves[i], repacked(x[i], x[half + i], false)) << table->isa;
        ASSERT_EQ(halves[half + i], repacked(x[i], x[half + i], true)) << table->isa;
        ASSERT_EQ(pairs[2 * i], repacked(x[2 * i], x[2 * i + 1], false)) << table->isa;
        ASSERT_EQ(pairs[2 * i + 1], repacked(x[2 * i], x[2 * i + 1], true)) << table->isa;
      }
      ASSERT_TRUE(halves.intact() && pairs.intact() && c.intact() && s.intact());
    }
  }
}

TEST(VectorConvert, SixteenBitFloatsBothWays) {
  for (const KernelTable* table : usable_tables()) {
    // Every 16-bit pattern, widened and narrowed again.
    std::vector<uint16_t> all(65536), back(65536);
    std::vector<float> wide(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    for (const bool half : {true, false}) {
      (half ? table->vector.f16_to_f32 : table->vector.bf16_to_f32)(all.data(), wide.data(), 65536);
      (half ? table->vector.f32_to_f16 : table->vector.f32_to_bf16)(wide.data(), back.data(), 65536);
      for (size_t i = 0; i < all.size(); ++i) {
        const float exact = half ? tensor::f16_to_f32(all[i]) : tensor::bf16_to_f32(all[i]);
        if (std::isnan(exact)) {
          ASSERT_TRUE(std::isnan(wide[i])) << table->isa << ", pattern " << i;
          ASSERT_TRUE(std::isnan(half ? tensor::f16_to_f32(back[i]) : tensor::bf16_to_f32(back[i])))
              << table->isa << ", pattern " << i;
        } else {
          ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(exact))
              << table->isa << ", pattern " << i;
          ASSERT_EQ(back[i], all[i]) << table->isa << ", pattern " << i;
        }
      }
    }
    // Rounding, at lengths around the vectors: random bits, so that all exponents occur.
    for (const int64_t n : lengths()) {
      Row<float> x(n, n);
      base::Rng rng(static_cast<uint64_t>(n));
      for (int64_t i = 0; i < n; ++i) x[i] = std::bit_cast<float>(rng.bits());
      Row<uint16_t> f16(n, n + 1), bf16(n, n + 2);
      table->vector.f32_to_f16(x.data(), f16.data(), n);
      table->vector.f32_to_bf16(x.data(), bf16.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(f16[i], tensor::f32_to_f16(x[i])) << table->isa << ", " << x[i];
        ASSERT_EQ(bf16[i], tensor::f32_to_bf16(x[i])) << table->isa << ", " << x[i];
      }
      Row<float> a(n, n + 3), b(n, n + 4);
      table->vector.f16_to_f32(f16.data(), a.data(), n);
      table->vector.bf16_to_f32(bf16.data(), b.data(), n);
      ASSERT_TRUE(x.intact() && f16.intact() && bf16.intact() && a.intact() && b.intact()) << table->isa << ", " << n;
    }
  }
}

}  // namespace
}  // namespace coterie::kernels
