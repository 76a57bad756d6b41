#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <set>

#include "support/expect_error.h"

namespace coterie::tensor {
namespace {

TEST(DType, NamesAreUniqueAndFoundAgain) {
  std::set<std::string_view> names;
  for (int i = 0; i < kDTypes; ++i) {
    const DType dtype = static_cast<DType>(i);
    EXPECT_TRUE(names.insert(name(dtype)).second) << name(dtype);
    EXPECT_EQ(dtype_by_name(name(dtype)), dtype);
  }
  EXPECT_EQ(name(DType::f32), "f32");
  EXPECT_EQ(name(DType::boolean), "bool");
  EXPECT_EQ(name(DType::mxfp4), "mxfp4");
  expect_error(base::ErrorKind::bad_input, {"q9_z", "f32", "q4_k", "mxfp4"}, [] { dtype_by_name("q9_z"); });
  expect_error(base::ErrorKind::bad_input, {"\"\""}, [] { dtype_by_name(""); });
}

TEST(DType, BytesOfRows) {
  EXPECT_EQ(row_bytes(DType::f32, 3), 12);
  EXPECT_EQ(row_bytes(DType::f64, 3), 24);
  EXPECT_EQ(row_bytes(DType::boolean, 3), 3);
  EXPECT_EQ(row_bytes(DType::q4_k, 4096), 2304);
  EXPECT_EQ(row_bytes(DType::q8_0, 0), 0);
  EXPECT_EQ(row_bytes(DType::bf16, int64_t{1} << 40), int64_t{1} << 41);
  expect_error(base::ErrorKind::internal, {"100 values", "q4_k", "256"}, [] { row_bytes(DType::q4_k, 100); });
}

TEST(DType, BitsPerValue) {
  EXPECT_DOUBLE_EQ(bits_per_value(DType::f32), 32);
  EXPECT_DOUBLE_EQ(bits_per_value(DType::q4_k), 4.5);
  EXPECT_DOUBLE_EQ(bits_per_value(DType::q6_k), 6.5625);
  EXPECT_DOUBLE_EQ(bits_per_value(DType::mxfp4), 4.25);
  EXPECT_TRUE(is_block(DType::iq4_xs));
  EXPECT_FALSE(is_block(DType::i64));
}

}  // namespace
}  // namespace coterie::tensor
