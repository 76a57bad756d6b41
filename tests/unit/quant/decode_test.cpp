#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "quant/codec.h"
#include "unit/quant/golden.h"

namespace coterie {
namespace {

using tensor::DType;

class Decode : public testing::TestWithParam<DType> {};

TEST_P(Decode, EqualsGgufPyToTheBit) {
  const std::string name(tensor::name(GetParam()));
  const std::string blocks = golden(name + ".blocks");
  const std::vector<float> expected = golden_values(name + ".values");
  ASSERT_EQ(static_cast<int64_t>(blocks.size()), tensor::row_bytes(GetParam(), static_cast<int64_t>(expected.size())));
  std::vector<float> found(expected.size(), 99.0f);
  quant::decode(GetParam(), reinterpret_cast<const std::byte*>(blocks.data()), found.data(),
                static_cast<int64_t>(found.size()));
  for (size_t i = 0; i < found.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(expected[i])) << name << " value " << i;
}

TEST_P(Decode, ReadsBlocksAtAnyAddress) {
  const std::string name(tensor::name(GetParam()));
  const std::string blocks = golden(name + ".blocks");
  const std::vector<float> expected = golden_values(name + ".values");
  const std::string shifted = "x" + blocks;
  std::vector<float> found(expected.size());
  quant::decode(GetParam(), reinterpret_cast<const std::byte*>(shifted.data()) + 1, found.data(),
                static_cast<int64_t>(found.size()));
  EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)), 0);
}

TEST_P(Decode, RefusesAPartOfABlock) {
  const std::string blocks = golden(std::string(tensor::name(GetParam())) + ".blocks");
  std::vector<float> values(512);
  try {
    quant::decode(GetParam(), reinterpret_cast<const std::byte*>(blocks.data()), values.data(), 31);
    FAIL() << "31 values were decoded";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.kind(), base::ErrorKind::internal);
  }
}

INSTANTIATE_TEST_SUITE_P(, Decode, testing::ValuesIn(block_formats()),
                         [](const auto& test) { return std::string(tensor::name(test.param)); });

TEST(DecodePlain, FloatsOfAllWidths) {
  const std::vector<float> source = golden_values("source.values");
  const int64_t count = static_cast<int64_t>(source.size());
  std::vector<float> found(source.size());
  quant::decode(DType::f32, reinterpret_cast<const std::byte*>(source.data()), found.data(), count);
  EXPECT_EQ(found, source);
  const std::string half = golden("source.f16"), brain = golden("source.bf16");
  quant::decode(DType::f16, reinterpret_cast<const std::byte*>(half.data()), found.data(), count);
  for (size_t i = 0; i < source.size(); ++i)
    EXPECT_NEAR(found[i], source[i], std::max(std::abs(source[i]) * 0x1p-11, 0x1p-25)) << i;
  quant::decode(DType::bf16, reinterpret_cast<const std::byte*>(brain.data()), found.data(), count);
  for (size_t i = 0; i < source.size(); ++i) EXPECT_NEAR(found[i], source[i], std::abs(source[i]) * 0x1p-8) << i;
}

TEST(DecodePlain, RefusesWhatIsNoWeightByName) {
  std::byte byte{};
  float value = 0;
  for (const DType dtype : {DType::f64, DType::i8, DType::i16, DType::i32, DType::i64, DType::u8, DType::boolean,
                            DType::f8_e4m3, DType::f8_e5m2}) {
    try {
      quant::decode(dtype, &byte, &value, 1);
      FAIL() << tensor::name(dtype);
    } catch (const base::Error& error) {
      EXPECT_EQ(error.kind(), base::ErrorKind::unsupported);
      EXPECT_NE(error.message().find(tensor::name(dtype)), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace coterie
