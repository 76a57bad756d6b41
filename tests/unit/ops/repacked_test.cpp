#include <gtest/gtest.h>

#include "kernels/table.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/products.h"
#include "support/expect_error.h"
#include "unit/kernels/random_weights.h"

// A repacked weight is one that only the kernels made for it read: whoever would read its rows says so.
namespace coterie::ops {
namespace {

using tensor::DType;

class RepackedRows : public testing::Test {
 protected:
  threads::Pool pool_{1};
  tensor::Arena arena_;
  std::vector<float> x_ = std::vector<float>(256, 1.0f), y_ = std::vector<float>(256);

  Context context(Precision precision) { return {pool_, kernels::select(), arena_, precision}; }
  static Weight repacked(const test::RandomWeight& weight) {
    Weight w = weight;
    w.repacked = true;
    return w;
  }
};

TEST_F(RepackedRows, AreNotLookedUp) {
  const test::RandomWeight weight(DType::f32, 16, 256, 1);
  Context fast = context(Precision::fast);
  const int32_t id = 3;
  expect_error(base::ErrorKind::internal, {"embed", "repacked rows of f32"}, [&] {
    embed(fast, {&id, 1}, repacked(weight), {y_.data(), 1, 256});
  });
}

TEST_F(RepackedRows, AreNoMatrixOfFloats) {
  Context fast = context(Precision::fast);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const test::RandomWeight weight(dtype, 16, 256, 1);
    expect_error(base::ErrorKind::internal, {"as_floats", "repacked rows"}, [&] { as_floats(fast, repacked(weight)); });
  }
}

TEST_F(RepackedRows, OfBlocksAreNotForF32) {
  const test::RandomWeight weight(DType::q8_0, 16, 256, 1);
  Context exact = context(Precision::f32);
  expect_error(base::ErrorKind::internal, {"matmul", "repacked rows of q8_0"}, [&] {
    matmul(exact, {x_.data(), 1, 256}, repacked(weight), nullptr, {y_.data(), 1, 16});
  });
}

TEST_F(RepackedRows, AreNotForBf16) {
  if (!kernels::select().matmul.bf16.run) GTEST_SKIP() << "this CPU has no products of bf16";
  const test::RandomWeight weight(DType::f32, 16, 256, 1);
  Context bf16 = context(Precision::bf16);
  expect_error(base::ErrorKind::internal, {"matmul", "repacked rows"}, [&] {
    matmul(bf16, {x_.data(), 1, 256}, repacked(weight), nullptr, {y_.data(), 1, 16});
  });
}

}  // namespace
}  // namespace coterie::ops
