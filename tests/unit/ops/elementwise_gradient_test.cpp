#include "gradient_harness.h"
#include "ops/elementwise.h"
#include "ops/scan.h"

namespace coterie::ops {
namespace {

using gradient::Check;
using tensor::Matrix;

constexpr int64_t kCols = 6;

/// One op in place on an activation.
void check_in_place(const std::function<void(Context&, Matrix)>& op, double scale = 1) {
  Check check;
  const size_t x = check.leaf(4 * kCols, scale);
  check.run([&](Context& context) {
    const Matrix m = check.activation(context, x, kCols);
    op(context, m);
    return m;
  });
}

TEST(ElementwiseGradient, EqualsFiniteDifferencesInPlace) {
  check_in_place([](Context& context, Matrix x) { scale(context, x, -1.5f); });
  check_in_place([](Context& context, Matrix x) { softcap(context, x, 1.25f); });
  check_in_place([](Context& context, Matrix x) { softplus(context, x, nullptr, x); });
  check_in_place([](Context& context, Matrix x) { add(context, x.row_range(0, 2), x.row_range(2, 4), 0.75f); });
}

TEST(ElementwiseGradient, NothingPassesALimit) {
  Check check;
  const size_t x = check.leaf(4 * kCols, 2);
  for (int i = 0; i < 4 * kCols; ++i) {  // away from the corners, where there is no derivative
    float& v = check.values(x)[i];
    if (std::abs(std::abs(v) - 1) < 0.1f) v *= 0.5f;
  }
  check.run([&](Context& context) {
    const Matrix m = check.activation(context, x, kCols);
    clamp(context, m, 1);
    return m;
  });
  check.run([&](Context& context) {
    const Matrix m = check.activation(context, x, kCols);
    softplus(context, m, nullptr, m, 0.2f, 4);
    return m;
  });
}

TEST(ElementwiseGradient, SoftplusHasABias) {
  Check check;
  const size_t x = check.leaf(3 * kCols), bias = check.leaf(kCols);
  check.run([&](Context& context) {
    const Matrix m = check.activation(context, x, kCols), y = context.arena.matrix(3, kCols);
    softplus(context, m, check.values(bias), y);
    return y;
  });
}

TEST(ElementwiseGradient, OfGates) {
  using kernels::Activation;
  for (const Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu,
                                      Activation::relu2, Activation::identity}) {
    SCOPED_TRACE(static_cast<int>(activation));
    Check check;
    const size_t x = check.leaf(3 * kCols), g = check.leaf(3 * kCols);
    for (int i = 0; i < 3 * kCols; ++i)  // away from relu's corner
      if (float& v = check.values(g)[i]; std::abs(v) < 0.1f) v = 0.3f;
    check.run([&](Context& context) {
      const Matrix in = check.activation(context, x, kCols), open = check.activation(context, g, kCols);
      gate(context, activation, open, in);
      return open;
    });
  }
}

TEST(ElementwiseGradient, OfAGatedSum) {
  Check check;
  const size_t x = check.leaf(3 * kCols), g = check.leaf(3), y = check.leaf(3 * kCols);
  check.run([&](Context& context) {
    const Matrix in = check.activation(context, x, kCols), open = check.activation(context, g, 1);
    const Matrix out = check.activation(context, y, kCols);
    add_gated(context, in, open, out);
    return out;
  });
}

TEST(ElementwiseGradient, CopiesAddUpWhereARowIsTakenTwice) {
  Check check;
  const size_t x = check.leaf(3 * kCols);
  const int64_t rows[] = {2, 0, 2};
  check.run([&](Context& context) {
    const Matrix in = check.activation(context, x, kCols), y = context.arena.matrix(3, 2 * kCols);
    copy_rows(context, in, rows, y.col_range(0, kCols));
    copy(context, in, y.col_range(kCols, 2 * kCols));
    return y;
  });
}

TEST(ElementwiseGradient, OfRowsOfATable) {
  Check check;
  const size_t table = check.leaf(5 * kCols);
  const int32_t ids[] = {3, 1, 3, 0};
  check.run([&](Context& context) {
    const Matrix y = context.arena.matrix(4, kCols);
    embed(context, ids, check.weight(table, 5, kCols), y, 1.5f);
    return y;
  });
}

TEST(ElementwiseGradient, OfRotations) {
  for (const RopeTable::Style style : {RopeTable::Style::half, RopeTable::Style::interleaved}) {
    Check check;
    const size_t x = check.leaf(3 * 2 * kCols);
    const RopeTable table{style, 4, {1.0f, 0.3f}, 1.2f};
    const int32_t positions[] = {0, 3, 11};
    check.run([&](Context& context) {
      const Matrix m = check.activation(context, x, 2 * kCols);
      rope(context, table, positions, 2, m);
      return m;
    });
  }
}

TEST(NormGradient, EqualsFiniteDifferences) {
  Check check;
  const size_t x = check.leaf(5 * kCols), w = check.leaf(kCols, 0.5, 1), b = check.leaf(kCols),
               heads = check.leaf(2, 0.5, 1);
  const auto norm = [&](const std::function<void(Context&, Matrix)>& op) {
    check.run([&](Context& context) {
      const Matrix m = check.activation(context, x, kCols);
      op(context, m);
      return m;
    });
  };
  norm([&](Context& context, Matrix m) { rms_norm(context, m, check.values(w), 1e-2f, m, 1); });
  norm([&](Context& context, Matrix m) { rms_norm_heads(context, m, 3, check.values(heads), 1e-2f); });
  norm([&](Context& context, Matrix m) { rms_norm_groups(context, m, 2, check.values(w), 1e-2f, m); });
  norm([&](Context& context, Matrix m) { layer_norm(context, m, check.values(w), check.values(b), 1e-2f, m); });
  check.run([&](Context& context) {
    const Matrix m = check.activation(context, x, kCols), y = context.arena.matrix(5, kCols);
    rms_norm(context, m, check.values(w), 1e-2f, y);
    add(context, m, y);  // x is read again afterwards
    return y;
  });
}

TEST(NormGradient, OfManyRowsHasTheSameBitsWithAnyThreads) {
  gradient::expect_same_bits([](int threads) {
    Check check(threads);
    const size_t x = check.leaf(700 * 64), w = check.leaf(64, 0.5, 1);
    check.go_back([&](Context& context) {
      const Matrix m = check.activation(context, x, 64);
      rms_norm(context, m, check.values(w), 1e-5f, m);
      return m;
    });
    return std::vector{check.gradient(x), check.gradient(w)};
  });
}

}  // namespace
}  // namespace coterie::ops
