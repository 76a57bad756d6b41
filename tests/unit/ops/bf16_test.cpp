#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "kernels/table.h"
#include "ops/matmul.h"
#include "ops/moe/experts.h"
#include "ops/tape.h"

// Training's bf16: operands rounded where they are multiplied, forward and back, and nothing else.
namespace coterie::ops {
namespace {

using tensor::Weight;

constexpr int64_t kTokens = 150, kWidth = 72, kHidden = 100, kExperts = 3;

struct Result {
  std::vector<float> y, dx, dweights;
};

std::vector<float> draw(int64_t n, uint64_t stream, float size) {
  base::Rng rng(9, stream);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = size * rng.normal();
  return values;
}

/// A matmul and three gated experts over it, and the gradients of a weighted sum of what comes out.
Result run(Precision precision, int threads) {
  std::vector<float> weights = draw(kWidth * kWidth + kExperts * 3 * kWidth * kHidden, 1, 0.12f);
  std::vector<float> gradients(weights.size());
  const auto matrix = [&](int64_t at, int64_t rows, int64_t cols) {
    return Weight(reinterpret_cast<const std::byte*>(weights.data() + at), tensor::DType::f32, rows, cols);
  };
  std::vector<ExpertInput> inputs;
  std::vector<ExpertOutput> outputs;
  for (int64_t e = 0, at = kWidth * kWidth; e < kExperts; ++e, at += 3 * kWidth * kHidden) {
    inputs.push_back({matrix(at, kHidden, kWidth), matrix(at + kWidth * kHidden, kHidden, kWidth)});
    outputs.push_back({matrix(at + 2 * kWidth * kHidden, kWidth, kHidden)});
  }
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < kTokens; ++t) ids.push_back(static_cast<int32_t>(t * t % 5 % kExperts));
  const RoutingPlan plan = make_plan(ids, std::vector<float>(static_cast<size_t>(kTokens), 0.7f), kTokens, 1, kExperts);
  threads::Pool pool(threads);
  tensor::Arena arena;
  ParameterGradients parameters;
  parameters.add(weights.data(), std::ssize(weights), gradients.data());
  Tape tape(arena, parameters);
  Context context{pool, kernels::select(), arena, precision, &tape};
  const Matrix x = arena.matrix(kTokens, kWidth), h = arena.matrix(kTokens, kWidth), y = arena.matrix(kTokens, kWidth);
  std::ranges::copy(draw(kTokens * kWidth, 2, 1), x.data);
  Result result;
  tape.record({}, [&](Reverse& back) {
    const Matrix dx = back.gradient(x);
    result.dx.assign(dx.data, dx.data + kTokens * kWidth);
  });
  matmul(context, x, matrix(0, kWidth, kWidth), nullptr, h);
  experts(context, h, plan, inputs, outputs, Activation::silu, kHidden, y);
  result.y.assign(y.data, y.data + kTokens * kWidth);
  tape.record({}, [&](Reverse& back) { std::ranges::copy(draw(kTokens * kWidth, 3, 1), back.gradient(y).data); });
  context.tape = nullptr;
  tape.backward(context);
  result.dweights = gradients;
  return result;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / size);
}

TEST(Bf16, IsNearF32ForwardAndBackAndTheSameForAnyThreads) {
  if (!kernels::select().gemm_bf16.run) GTEST_SKIP() << "these kernels have no bf16";
  const Result exact = run(Precision::f32, 2), rough = run(Precision::bf16, 2), alone = run(Precision::bf16, 1);
  // Operands err by up to 2^-9, at random: sums by about as much.
  for (const auto& of : {&Result::y, &Result::dx, &Result::dweights}) {
    EXPECT_LT(distance(rough.*of, exact.*of), 0.01);
    EXPECT_GT(distance(rough.*of, exact.*of), 1e-4) << "was it f32?";
    EXPECT_EQ(rough.*of, alone.*of);
  }
}

TEST(Bf16, IsRefusedByKernelsWithoutIt) {
  threads::Pool pool(1);
  tensor::Arena arena;
  Context context{pool, kernels::by_name("scalar"), arena, Precision::bf16};
  std::vector<float> w(4 * 8);
  const Matrix x = arena.matrix(2, 8), y = arena.matrix(2, 4);
  std::fill_n(x.data, 16, 1.0f);
  const Weight weight(reinterpret_cast<const std::byte*>(w.data()), tensor::DType::f32, 4, 8);
  try {
    matmul(context, x, weight, nullptr, y);
    FAIL();
  } catch (const base::Error& error) {
    EXPECT_EQ(error.kind(), base::ErrorKind::unsupported);
    EXPECT_NE(std::string(error.what()).find("bf16"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace coterie::ops
