#include "checkpoint/random_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "quant/codec.h"
#include "support/expect_error.h"

namespace coterie {
namespace {

using base::ErrorKind;
using checkpoint::random_source;
using checkpoint::RandomTensor;
using tensor::DType;

std::vector<float> values_of(const checkpoint::TensorInfo& info) {
  std::vector<float> values(static_cast<size_t>(tensor::element_count(info.shape)));
  quant::decode(info.dtype, info.bytes.data(), values.data(), static_cast<int64_t>(values.size()));
  return values;
}

std::vector<std::byte> bytes_of(const checkpoint::TensorSource& source, std::string_view name) {
  const auto bytes = source.find(name)->bytes;
  return {bytes.begin(), bytes.end()};
}

std::vector<DType> weight_types() {
  std::vector<DType> types;
  for (int i = 0; i < tensor::kDTypes; ++i)
    if (tensor::info(static_cast<DType>(i)).weight && !quant::is_scaled(static_cast<DType>(i)))
      types.push_back(static_cast<DType>(i));
  return types;
}

class RandomWeights : public testing::TestWithParam<DType> {};

TEST_P(RandomWeights, HaveTheMeanAndDeviationAskedFor) {
  for (const float scale : {0.02f, 1.0f}) {
    const auto source = random_source({{"w", GetParam(), {128, 4096}, scale}}, {}, 1);
    const std::vector<float> values = values_of(source->tensors()[0]);
    double sum = 0, squares = 0, fourth = 0;
    for (const float value : values) {
      ASSERT_TRUE(std::isfinite(value));
      sum += value, squares += double{value} * value, fourth += std::pow(value, 4);
    }
    const double count = static_cast<double>(values.size());
    EXPECT_NEAR(std::sqrt(squares / count) / scale, 1, 0.015);
    EXPECT_NEAR(sum / count / scale, 0, 0.015);
    EXPECT_LT(fourth / count / std::pow(scale, 4), 5) << "heavy tails (3 is a normal distribution)";
  }
}

TEST_P(RandomWeights, AreTheSameForAnyThreadCountAndCompany) {
  const std::vector<RandomTensor> both = {{"other", GetParam(), {16, 256}, 1}, {"w", GetParam(), {3000, 512}, 0.5}};
  const auto one = random_source(both, {}, 7, 1), three = random_source(both, {}, 7, 3);
  const auto alone = random_source({both[1]}, {}, 7, 2);
  EXPECT_TRUE(std::ranges::equal(one->find("w")->bytes, three->find("w")->bytes));
  EXPECT_TRUE(std::ranges::equal(one->find("w")->bytes, alone->find("w")->bytes));
  const auto other_seed = random_source({both[1]}, {}, 8, 1),
             other_name = random_source({{"x", GetParam(), {3000, 512}, 0.5}}, {}, 7, 1);
  EXPECT_FALSE(std::ranges::equal(alone->find("w")->bytes, other_seed->find("w")->bytes));
  EXPECT_FALSE(std::ranges::equal(alone->find("w")->bytes, other_name->find("x")->bytes));
}

TEST_P(RandomWeights, RowsDiffer) {
  const auto source = random_source({{"w", GetParam(), {4096, 256}, 1}}, {}, 1);
  const size_t row = static_cast<size_t>(tensor::row_bytes(GetParam(), 256));
  std::set<std::string> rows;
  for (size_t r = 0; r < 4096; ++r)
    rows.emplace(reinterpret_cast<const char*>(source->tensors()[0].bytes.data()) + r * row, row);
  EXPECT_EQ(rows.size(), 4096u);
}

INSTANTIATE_TEST_SUITE_P(, RandomWeights, testing::ValuesIn(weight_types()),
                         [](const auto& test) { return std::string(tensor::name(test.param)); });

TEST(RandomSource, OffsetsScalesAndEmptyTensors) {
  const auto source = random_source({{"norm", DType::f32, {4096}, 0.1f, 1.0f},
                                     {"same", DType::bf16, {64}, 0, 0.5f},
                                     {"zero", DType::q4_k, {256}, 0},
                                     {"empty", DType::f32, {0, 5}, 1}},
                                    {{"general.architecture", std::string("llama")}}, 1);
  double sum = 0;
  for (const float value : values_of(*source->find("norm"))) sum += value;
  EXPECT_NEAR(sum / 4096, 1, 0.01);
  for (const float value : values_of(*source->find("same"))) EXPECT_EQ(value, 0.5f);
  for (const float value : values_of(*source->find("zero"))) EXPECT_EQ(value, 0.0f);
  EXPECT_EQ(source->find("empty")->bytes.size(), 0u);
  EXPECT_EQ(source->find("absent"), nullptr);
  EXPECT_EQ(source->format(), checkpoint::Format::memory);
  EXPECT_EQ(std::get<std::string>(source->metadata().at("general.architecture")), "llama");
  EXPECT_EQ(source->file_bytes(), 4096 * 4 + 64 * 2 + 144);
  for (const auto& info : source->tensors()) EXPECT_EQ(reinterpret_cast<uintptr_t>(info.bytes.data()) % 64, 0u);
}

TEST(RandomSource, RowsOfSpreadScalesDifferAsMuchAsAsked) {
  constexpr int64_t kRows = 400, kCols = 64;
  const auto source =
      random_source({{.name = "even", .dtype = DType::f32, .shape = {kRows, kCols}},
                     {.name = "spread", .dtype = DType::f32, .shape = {kRows, kCols}, .row_spread = 1.2f}},
                    {}, 3);
  // The standard deviation of the logarithm of the rows' sizes.
  const auto spread = [&](const char* name) {
    const auto* values = reinterpret_cast<const float*>(source->find(name)->bytes.data());
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      double norm = 0;
      for (int64_t c = 0; c < kCols; ++c) norm += std::pow(values[r * kCols + c], 2.0);
      sum += std::log(norm) / 2, squares += std::pow(std::log(norm) / 2, 2.0);
    }
    return std::sqrt(squares / kRows - std::pow(sum / kRows, 2.0));
  };
  EXPECT_LT(spread("even"), 0.15);
  EXPECT_NEAR(spread("spread"), 1.2, 0.15);
  EXPECT_THROW(random_source({{.name = "q", .dtype = DType::q8_0, .shape = {4, 64}, .row_spread = 1}}, {}, 3),
               base::Error);
}

TEST(RandomSource, RefusesWhatMakesNoSense) {
  expect_error(ErrorKind::unsupported, {"i32"}, [] { random_source({{"w", DType::i32, {4}, 1}}, {}, 1); });
  expect_error(ErrorKind::unsupported, {"q8_0", "around 0"}, [] {
    random_source({{"w", DType::q8_0, {32}, 1, 1}}, {}, 1);
  });
  expect_error(ErrorKind::bad_input, {"w", "scale"}, [] { random_source({{"w", DType::f32, {4}, -1}}, {}, 1); });
  expect_error(ErrorKind::bad_input, {"scale nan"}, [] {
    random_source({{"w", DType::f32, {4}, std::numeric_limits<float>::quiet_NaN()}}, {}, 1);
  });
  expect_error(ErrorKind::bad_input, {"100 values", "q4_k"}, [] {
    random_source({{"w", DType::q4_k, {100}, 1}}, {}, 1);
  });
  expect_error(ErrorKind::bad_input, {"\"w\"", "twice"}, [] {
    random_source({{"w", DType::f32, {4}, 1}, {"w", DType::f32, {4}, 1}}, {}, 1);
  });
  expect_error(ErrorKind::out_of_memory, {"random weights", "available"}, [] {
    random_source({{"w", DType::f32, {int64_t{1} << 50}, 1}}, {}, 1);
  });
}

TEST(MemorySource, HoldsWhatItWasGiven) {
  std::vector<checkpoint::MemoryTensor> tensors;
  tensors.push_back({"a", DType::u8, {3}, {std::byte{1}, std::byte{2}, std::byte{3}}});
  const auto source = checkpoint::memory_source(std::move(tensors), {}, checkpoint::Format::gguf, "test");
  EXPECT_EQ(source->where(), "test");
  EXPECT_EQ(source->format(), checkpoint::Format::gguf);
  EXPECT_EQ(bytes_of(*source, "a"), (std::vector<std::byte>{std::byte{1}, std::byte{2}, std::byte{3}}));
  expect_error(ErrorKind::bad_input, {"takes 16 bytes", "3 were given"}, [] {
    std::vector<checkpoint::MemoryTensor> wrong;
    wrong.push_back({"a", DType::f32, {4}, {std::byte{1}, std::byte{2}, std::byte{3}}});
    checkpoint::memory_source(std::move(wrong));
  });
}

}  // namespace
}  // namespace coterie
