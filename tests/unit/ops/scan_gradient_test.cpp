#include "gradient_harness.h"
#include "ops/conv.h"
#include "ops/scan.h"

namespace coterie::ops {
namespace {

using gradient::Check;
using tensor::Matrix;

/// Two sequences, the first of them in two calls: its state passes gradients from the second to the first.
struct States {
  std::vector<float> first, second;
  std::vector<Recurrence> call(int which, int64_t rows, int64_t cut) {
    if (which == 0) return {{0, cut, first.data()}};
    return {{cut, rows - 2 - cut, first.data()}, {rows - 2, 2, second.data()}};
  }
  explicit States(int64_t floats) : first(static_cast<size_t>(floats)), second(first) {}
  void clear() {
    std::fill(first.begin(), first.end(), 0.0f);
    std::fill(second.begin(), second.end(), 0.0f);
  }
};

TEST(ConvGradient, EqualsFiniteDifferencesThroughTheStateToo) {
  constexpr int64_t kRows = 8, kChannels = 3;
  for (const int64_t width : {1, 4}) {
    for (const int64_t cut : {0, 2, 5}) {
      Check check;
      const size_t x = check.leaf(kRows * kChannels), taps = check.leaf(width * kChannels),
                   bias = check.leaf(kChannels);
      States states((width - 1) * kChannels);
      check.run([&](Context& context) {
        const Matrix in = check.activation(context, x, kChannels), y = context.arena.matrix(kRows, kChannels);
        states.clear();
        const Convolution convolution{width, check.values(taps), check.values(bias), kernels::Activation::silu};
        for (int call = 0; call < 2; ++call) causal_conv1d(context, convolution, in, states.call(call, kRows, cut), y);
        return y;
      });
    }
  }
}

TEST(ScanGradient, OfMambaEqualsFiniteDifferences) {
  constexpr int64_t kRows = 7, kChannels = 4, kStates = 3, kGroups = 2;
  Check check;
  const size_t x = check.leaf(kRows * kChannels), dt = check.leaf(kRows * kChannels, 0.1, 0.5);
  const size_t bc = check.leaf(kRows * 2 * kGroups * kStates), a = check.leaf(kStates * kChannels, 0.2, -0.8);
  const size_t d = check.leaf(kChannels);
  States states(kStates * kChannels);
  check.run([&](Context& context) {
    const Matrix in = check.activation(context, x, kChannels), steps = check.activation(context, dt, kChannels);
    const Matrix both = check.activation(context, bc, 2 * kGroups * kStates),
                 y = context.arena.matrix(kRows, kChannels);
    states.clear();
    const ScanInputs inputs{both.col_range(0, both.cols), both.col_range(kStates, both.cols), kGroups, 2 * kStates};
    for (int call = 0; call < 2; ++call)
      selective_scan(context, {kStates, check.values(a), check.values(d)}, in, steps, inputs,
                     states.call(call, kRows, 3), y);
    return y;
  });
}

TEST(ScanGradient, OfMamba2EqualsFiniteDifferences) {
  constexpr int64_t kRows = 7, kHeads = 4, kWidth = 2, kStates = 3, kGroups = 2;
  Check check;
  const size_t x = check.leaf(kRows * kHeads * kWidth), dt = check.leaf(kRows * kHeads, 0.1, 0.5);
  const size_t b = check.leaf(kRows * kGroups * kStates), c = check.leaf(kRows * kGroups * kStates);
  const size_t a = check.leaf(kHeads, 0.2, -0.8), d = check.leaf(kHeads);
  States states(kHeads * kStates * kWidth);
  check.run([&](Context& context) {
    const Matrix in = check.activation(context, x, kHeads * kWidth), steps = check.activation(context, dt, kHeads);
    const Matrix y = context.arena.matrix(kRows, kHeads * kWidth);
    states.clear();
    const ScanInputs inputs{check.activation(context, b, kGroups * kStates),
                            check.activation(context, c, kGroups * kStates), kGroups, kStates};
    for (int call = 0; call < 2; ++call)
      head_scan(context, {kHeads, kStates, check.values(a), check.values(d)}, in, steps, inputs,
                states.call(call, kRows, 3), y);
    return y;
  });
}

// Longer than a block of tokens, more channels than a task has.
TEST(ScanGradient, OfLongSequencesHasTheSameBitsWithAnyThreadsAndForgetsNothing) {
  constexpr int64_t kRows = 90, kChannels = 70, kStates = 4;
  const auto gradients = [](int threads, int64_t cut) {
    Check check(threads);
    const size_t x = check.leaf(kRows * kChannels), dt = check.leaf(kRows * kChannels, 0.02, 0.1);
    const size_t b = check.leaf(kRows * kStates), c = check.leaf(kRows * kStates);
    const size_t a = check.leaf(kStates * kChannels, 0.2, -0.8), d = check.leaf(kChannels);
    States states(kStates * kChannels);
    check.go_back([&](Context& context) {
      const Matrix in = check.activation(context, x, kChannels), steps = check.activation(context, dt, kChannels);
      const Matrix y = context.arena.matrix(kRows, kChannels);
      const ScanInputs inputs{check.activation(context, b, kStates), check.activation(context, c, kStates), 1, 0};
      states.clear();
      for (int call = 0; call < 2; ++call)
        selective_scan(context, {kStates, check.values(a), check.values(d)}, in, steps, inputs,
                       states.call(call, kRows, cut), y);
      return y;
    });
    return std::vector{check.gradient(x), check.gradient(dt), check.gradient(b),
                       check.gradient(c), check.gradient(a),  check.gradient(d)};
  };
  gradient::expect_same_bits([&](int threads) { return gradients(threads, 0); });
  const auto whole = gradients(2, 0), cut = gradients(2, 50);
  for (size_t i = 0; i < whole.size(); ++i)
    for (size_t j = 0; j < whole[i].size(); ++j) ASSERT_NEAR(cut[i][j], whole[i][j], 2e-4) << i << " " << j;
}

}  // namespace
}  // namespace coterie::ops
