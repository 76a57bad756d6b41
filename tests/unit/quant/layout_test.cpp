#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "quant/blocks.h"
#include "tensor/dtype.h"

namespace coterie::quant {
namespace {

TEST(Layout, SizesAreThoseOfTheDTypes) {
  const auto expect = [](tensor::DType dtype, int64_t values, size_t bytes) {
    EXPECT_EQ(tensor::info(dtype).block_values, values) << tensor::name(dtype);
    EXPECT_EQ(tensor::info(dtype).block_bytes, static_cast<int64_t>(bytes)) << tensor::name(dtype);
  };
  using tensor::DType;
  expect(DType::q4_0, kSmallBlock, sizeof(BlockQ4_0));
  expect(DType::q4_1, kSmallBlock, sizeof(BlockQ4_1));
  expect(DType::q5_0, kSmallBlock, sizeof(BlockQ5_0));
  expect(DType::q5_1, kSmallBlock, sizeof(BlockQ5_1));
  expect(DType::q8_0, kSmallBlock, sizeof(BlockQ8_0));
  expect(DType::q2_k, kSuperBlock, sizeof(BlockQ2_K));
  expect(DType::q3_k, kSuperBlock, sizeof(BlockQ3_K));
  expect(DType::q4_k, kSuperBlock, sizeof(BlockQ4_K));
  expect(DType::q5_k, kSuperBlock, sizeof(BlockQ5_K));
  expect(DType::q6_k, kSuperBlock, sizeof(BlockQ6_K));
  expect(DType::iq4_nl, kSmallBlock, sizeof(BlockIQ4_NL));
  expect(DType::iq4_xs, kSuperBlock, sizeof(BlockIQ4_XS));
  expect(DType::mxfp4, kSmallBlock, sizeof(BlockMXFP4));
  expect(DType::iq2_xxs, kSuperBlock, sizeof(BlockIQ2_XXS));
  expect(DType::iq2_xs, kSuperBlock, sizeof(BlockIQ2_XS));
  expect(DType::iq2_s, kSuperBlock, sizeof(BlockIQ2_S));
  expect(DType::iq3_xxs, kSuperBlock, sizeof(BlockIQ3_XXS));
  expect(DType::iq3_s, kSuperBlock, sizeof(BlockIQ3_S));
  expect(DType::iq1_s, kSuperBlock, sizeof(BlockIQ1_S));
  expect(DType::iq1_m, kSuperBlock, sizeof(BlockIQ1_M));
  expect(DType::tq1_0, kSuperBlock, sizeof(BlockTQ1_0));
  expect(DType::tq2_0, kSuperBlock, sizeof(BlockTQ2_0));
}

TEST(Layout, PackedScalesComeBack) {
  base::Rng rng(1);
  for (int round = 0; round < 1000; ++round) {
    uint8_t scale[8], min[8], packed[12];
    for (int s = 0; s < 8; ++s)
      scale[s] = static_cast<uint8_t>(rng.below(64)), min[s] = static_cast<uint8_t>(rng.below(64));
    pack_scales_k4(scale, min, packed);
    for (int s = 0; s < 8; ++s) {
      uint8_t found_scale, found_min;
      unpack_scale_k4(packed, s, found_scale, found_min);
      ASSERT_EQ(found_scale, scale[s]);
      ASSERT_EQ(found_min, min[s]);
    }
    uint8_t scales[16];
    for (uint8_t& value : scales) value = static_cast<uint8_t>(rng.below(64));
    pack_scales_q3_k(scales, packed);
    for (int s = 0; s < 16; ++s) ASSERT_EQ(unpack_scale_q3_k(packed, s), scales[s]);
  }
}

TEST(Layout, Mxfp4ScalesArePowersOfTwo) {
  for (int exponent = 0; exponent < 255; ++exponent)
    EXPECT_EQ(mxfp4_scale(static_cast<uint8_t>(exponent)), std::ldexp(1.0f, exponent - 128)) << exponent;
}

}  // namespace
}  // namespace coterie::quant
