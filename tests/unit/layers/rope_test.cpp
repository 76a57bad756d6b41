#include "layers/attention/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace coterie::layers {
namespace {

RopeSpec spec_of(RopeSpec::Scaling scaling, double factor, int64_t original) {
  RopeSpec spec;
  spec.dims = 8;
  spec.scaling = scaling, spec.factor = factor, spec.original_context = original;
  return spec;
}

TEST(Rope, PlainFrequencies) {
  const ops::RopeTable table = rope_table(spec_of(RopeSpec::Scaling::none, 1, 0));
  ASSERT_EQ(table.frequency.size(), 4u);
  EXPECT_EQ(table.frequency[0], 1.0f);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(table.frequency[static_cast<size_t>(i)], std::pow(10000.0, -i / 4.0), 1e-7);
  EXPECT_EQ(table.magnitude, 1.0f);
}

TEST(Rope, LinearDividesAll) {
  const ops::RopeTable table = rope_table(spec_of(RopeSpec::Scaling::linear, 4, 0));
  for (int i = 0; i < 4; ++i)
    EXPECT_NEAR(table.frequency[static_cast<size_t>(i)], std::pow(10000.0, -i / 4.0) / 4, 1e-7);
}

TEST(Rope, DynamicGrowsPastTheOriginalContextOnly) {
  const RopeSpec spec = spec_of(RopeSpec::Scaling::dynamic, 2, 100);
  const std::vector<float> plain = rope_table(spec_of(RopeSpec::Scaling::none, 1, 0)).frequency;
  EXPECT_EQ(rope_table(spec, 0).frequency, plain);
  EXPECT_EQ(rope_table(spec, 100).frequency, plain);
  const double base = 10000 * std::pow(2.0 * 150 / 100 - 1, 8.0 / 6.0);
  const std::vector<float> grown = rope_table(spec, 150).frequency;
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(grown[static_cast<size_t>(i)], std::pow(base, -i / 4.0), 1e-6);
  EXPECT_FALSE(Rope::frequencies_change(spec, 10, 100));
  EXPECT_TRUE(Rope::frequencies_change(spec, 100, 101));
  EXPECT_TRUE(Rope::frequencies_change(spec, 120, 121));
  EXPECT_FALSE(Rope::frequencies_change(spec_of(RopeSpec::Scaling::yarn, 2, 100), 100, 101));
}

// Llama 3.1's rule by bands: wavelengths below original/high kept, above original/low divided, linear between.
TEST(Rope, Llama3Bands) {
  RopeSpec spec = spec_of(RopeSpec::Scaling::llama3, 8, 64);
  const std::vector<float> plain = rope_table(spec_of(RopeSpec::Scaling::none, 1, 0)).frequency;
  const std::vector<float> scaled = rope_table(spec).frequency;
  EXPECT_EQ(scaled[0], plain[0]);                                      // wavelength 6.3 < 64 / 4
  EXPECT_NEAR(scaled[3], plain[3] / 8, 1e-10f);                        // wavelength 6283 > 64
  const double wavelength = 2 * M_PI / static_cast<double>(plain[1]);  // 62.8: between 16 and 64
  const double smooth = (64 / wavelength - 1) / 3;
  EXPECT_NEAR(scaled[1], (1 - smooth) * plain[1] / 8 + smooth * plain[1], 1e-7);
}

TEST(Rope, YarnsMagnitudes) {
  RopeSpec spec = spec_of(RopeSpec::Scaling::yarn, 4, 16);
  EXPECT_NEAR(rope_table(spec).magnitude, 0.1 * std::log(4.0) + 1, 1e-6);
  spec.mscale = 0.5, spec.mscale_all_dim = 1.0;
  EXPECT_NEAR(rope_table(spec).magnitude, (0.05 * std::log(4.0) + 1) / (0.1 * std::log(4.0) + 1), 1e-6);
  spec.attention_factor = 1.25;
  EXPECT_EQ(rope_table(spec).magnitude, 1.25f);
}

TEST(Rope, DivisorsAreApplied) {
  RopeSpec spec = spec_of(RopeSpec::Scaling::none, 1, 0);
  spec.divisors = {1, 2, 4, 8};
  const std::vector<float> plain = rope_table(spec_of(RopeSpec::Scaling::none, 1, 0)).frequency;
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(rope_table(spec).frequency[i], plain[i] / spec.divisors[i]);
}

}  // namespace
}  // namespace coterie::layers
