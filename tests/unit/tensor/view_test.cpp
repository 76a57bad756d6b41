#include "tensor/view.h"

#include <gtest/gtest.h>

#include <vector>

namespace coterie::tensor {
namespace {

TEST(View, ShapesInWords) {
  EXPECT_EQ(to_string({8, 32, 96}), "[8, 32, 96]");
  EXPECT_EQ(to_string({}), "[]");
  EXPECT_EQ(element_count({8, 32, 96}), 24576);
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({5, 0}), 0);
}

TEST(View, MatrixRangesAreViews) {
  std::vector<float> data(12);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  const Matrix matrix(data.data(), 3, 4);
  EXPECT_EQ(matrix.row(2)[1], 9);
  const ConstMatrix rows = matrix.row_range(1, 3);
  EXPECT_EQ(rows.rows, 2);
  EXPECT_EQ(rows.row(0)[0], 4);
  const Matrix cols = matrix.col_range(1, 3);
  EXPECT_EQ(cols.cols, 2);
  EXPECT_EQ(cols.stride, 4);
  EXPECT_EQ(cols.row(2)[1], 10);
  cols.row(0)[0] = 99;
  EXPECT_EQ(data[1], 99);
}

TEST(View, WeightRowsFollowTheirStride) {
  std::vector<std::byte> data(static_cast<size_t>(4 * row_bytes(DType::q8_0, 64)));
  const Weight weight(data.data(), DType::q8_0, 4, 64);
  EXPECT_EQ(weight.row_stride, 68);
  EXPECT_EQ(weight.bytes(), 272);
  EXPECT_EQ(weight.row(3), data.data() + 204);
  Weight every_second = weight;
  every_second.rows = 2, every_second.row_stride *= 2;
  EXPECT_EQ(every_second.row(1), data.data() + 136);
  EXPECT_EQ(every_second.bytes(), 136);
  const Weight part = weight.row_range(1, 3);
  EXPECT_EQ(part.rows, 2);
  EXPECT_EQ(part.row(0), data.data() + 68);
  EXPECT_TRUE(static_cast<bool>(part));
  EXPECT_FALSE(static_cast<bool>(Weight()));
}

}  // namespace
}  // namespace coterie::tensor
