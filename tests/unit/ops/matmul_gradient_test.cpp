#include "gradient_harness.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"

namespace coterie::ops {
namespace {

using gradient::Check;
using tensor::Matrix;

TEST(MatmulGradient, EqualsFiniteDifferencesForSeveralWeightsOverOneInput) {
  Check check;
  const size_t x = check.leaf(5 * 7), w = check.leaf(4 * 7), bias = check.leaf(4), v = check.leaf(3 * 7);
  check.run([&](Context& context) {
    const Matrix in = check.activation(context, x, 7);
    const Matrix y = context.arena.matrix(5, 7);
    const MatmulTarget targets[] = {{check.weight(w, 4, 7), check.values(bias), y.col_range(0, 4)},
                                    {check.weight(v, 3, 7), nullptr, y.col_range(4, 7)}};
    matmul_each(context, in, targets);
    return y;
  });
}

TEST(MatmulGradient, AddsUpWhereAWeightIsUsedTwice) {
  Check check;
  const size_t x = check.leaf(3 * 4), w = check.leaf(4 * 4);
  check.run([&](Context& context) {
    const Matrix in = check.activation(context, x, 4);
    const Matrix once = context.arena.matrix(3, 4), twice = context.arena.matrix(3, 4);
    matmul(context, in, check.weight(w, 4, 4), nullptr, once);
    matmul(context, once, check.weight(w, 4, 4), nullptr, twice);
    return twice;
  });
}

TEST(MatmulGradient, GoesThroughFrozenWeightsOfAnyFormat) {
  Check check;
  const size_t x = check.leaf(3 * 8);
  std::vector<uint16_t> halves;
  for (int i = 0; i < 5 * 8; ++i) halves.push_back(static_cast<uint16_t>(0x3800 + 61 * i));  // 0.5 and up
  const tensor::Weight w(reinterpret_cast<const std::byte*>(halves.data()), tensor::DType::f16, 5, 8);
  check.run([&](Context& context) {
    const Matrix y = context.arena.matrix(3, 5);
    matmul(context, check.activation(context, x, 8), w, nullptr, y);
    return y;
  });
}

// Shapes past the tiles, the packed panels and the depth at which sums are cut.
TEST(MatmulGradient, LargeProductsHaveTheSameBitsWithAnyThreadsAndEqualPlainSums) {
  constexpr int64_t kRows = 261, kInputs = 203, kOutputs = 270;
  const auto gradients = [&](int threads) {
    Check check(threads);
    const size_t x = check.leaf(kRows * kInputs), w = check.leaf(kOutputs * kInputs), bias = check.leaf(kOutputs);
    check.go_back([&](Context& context) {
      const Matrix y = context.arena.matrix(kRows, kOutputs);
      matmul(context, check.activation(context, x, kInputs), check.weight(w, kOutputs, kInputs), check.values(bias), y);
      return y;
    });
    if (threads == 1) {
      const auto dy = [&](int64_t n, int64_t m) {
        return std::sin(1.7 * static_cast<double>(n * kOutputs + m) + 0.3) + 0.2;
      };
      for (int64_t k = 0; k < kInputs; k += 17) {
        for (int64_t n = 0; n < kRows; n += 13) {
          double sum = 0;
          for (int64_t m = 0; m < kOutputs; ++m)
            sum += dy(n, m) * static_cast<double>(check.values(w)[m * kInputs + k]);
          EXPECT_NEAR(static_cast<double>(check.gradient(x)[static_cast<size_t>(n * kInputs + k)]), sum, 1e-4);
        }
        for (int64_t m = 0; m < kOutputs; m += 13) {
          double sum = 0;
          for (int64_t n = 0; n < kRows; ++n) sum += dy(n, m) * static_cast<double>(check.values(x)[n * kInputs + k]);
          EXPECT_NEAR(static_cast<double>(check.gradient(w)[static_cast<size_t>(m * kInputs + k)]), sum, 1e-4);
        }
      }
    }
    return std::vector{check.gradient(x), check.gradient(w), check.gradient(bias)};
  };
  gradient::expect_same_bits(gradients);
}

}  // namespace
}  // namespace coterie::ops
