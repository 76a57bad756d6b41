#include "ops/dropout.h"

#include <cmath>

#include "gradient_harness.h"
#include "support/expect_error.h"

namespace coterie::ops {
namespace {

using gradient::Check;
using tensor::Matrix;

std::vector<float> masks(std::span<const DropoutRow> rows, int64_t cols, float rate, uint64_t place, int threads = 2) {
  threads::Pool pool(threads);
  tensor::Arena arena;
  Context context{pool, kernels::select(), arena, Precision::f32};
  const Matrix x = arena.matrix(std::ssize(rows), cols);
  std::fill_n(x.data, x.rows * cols, 1.0f);
  dropout(context, x, rate, rows, place);
  return {x.data, x.data + x.rows * cols};
}

TEST(Dropout, DropsTheShareAskedForAndScalesTheRest) {
  std::vector<DropoutRow> rows;
  for (int64_t t = 0; t < 400; ++t) rows.push_back({7, t});
  const std::vector<float> mask = masks(rows, 250, 0.1f, 3);
  int64_t dropped = 0;
  for (const float m : mask) {
    EXPECT_TRUE(m == 0 || m == 1 / (1 - 0.1f));
    dropped += m == 0;
  }
  const double n = static_cast<double>(mask.size());
  EXPECT_NEAR(static_cast<double>(dropped), 0.1 * n, 5 * std::sqrt(0.09 * n));
}

TEST(Dropout, IsKeyedBySamplePositionAndPlaceAlone) {
  const DropoutRow both[] = {{1, 5}, {2, 5}}, repacked[] = {{2, 5}, {1, 5}};
  const std::vector<float> a = masks(both, 64, 0.5f, 0), b = masks(repacked, 64, 0.5f, 0, 1);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 64, b.begin() + 64));
  EXPECT_FALSE(std::equal(a.begin(), a.begin() + 64, a.begin() + 64));
  EXPECT_NE(masks(both, 64, 0.5f, 1), a);
  const DropoutRow later[] = {{1, 6}, {2, 6}};
  EXPECT_NE(masks(later, 64, 0.5f, 0), a);
}

TEST(Dropout, ItsGradientGoesThroughTheSameMask) {
  Check check;
  const size_t x = check.leaf(3 * 10);
  const DropoutRow rows[] = {{1, 0}, {1, 1}, {9, 0}};
  check.run([&](Context& context) {
    const Matrix m = check.activation(context, x, 10);
    dropout(context, m, 0.4f, rows, 2);
    return m;
  });
}

TEST(Dropout, RefusesRatesThatLeaveNothing) {
  const DropoutRow rows[] = {{1, 0}};
  expect_error(base::ErrorKind::internal, {"rate of 1"}, [&] { masks(rows, 4, 1.0f, 0); });
}

}  // namespace
}  // namespace coterie::ops
