#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/elementwise.h"
#include "quant/codec.h"
#include "unit/ops/attention_harness.h"

namespace coterie::ops {
namespace {

using namespace test;

RopeTable table_of(RopeTable::Style style, int64_t dims, float magnitude = 1) {
  RopeTable table;
  table.style = style, table.dims = dims, table.magnitude = magnitude;
  for (int64_t i = 0; i < dims / 2; ++i) {
    table.frequency.push_back(1 / std::pow(10000.0f, static_cast<float>(2 * i) / static_cast<float>(dims)));
  }
  return table;
}

TEST(Rope, TurnsEveryHeadByItsRowsPosition) {
  for (const kernels::KernelTable* isa : usable_tables()) {
    Engine engine(*isa, 2);
    for (const RopeTable::Style style : {RopeTable::Style::half, RopeTable::Style::interleaved}) {
      for (const int64_t dims : {2, 12, 20, 32, 64}) {
        for (const int64_t rows : {1, 5, 300}) {
          const int64_t heads = 3, head_dim = 64, half = dims / 2;
          const RopeTable table = table_of(style, dims, 1.25f);
          std::vector<float> x = normal_values(rows * heads * head_dim, 1);
          const std::vector<float> before = x;
          std::vector<int32_t> positions;
          for (int64_t r = 0; r < rows; ++r) positions.push_back(static_cast<int32_t>(r % 7 == 3 ? 4 : 1000 - 3 * r));
          rope(engine.context, table, positions, heads, {x.data(), rows, heads * head_dim});
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t h = 0; h < heads; ++h) {
              const size_t at = static_cast<size_t>((r * heads + h) * head_dim);
              for (int64_t i = 0; i < half; ++i) {
                const bool split = style == RopeTable::Style::half;
                const size_t a = at + static_cast<size_t>(split ? i : 2 * i);
                const size_t b = at + static_cast<size_t>(split ? i + half : 2 * i + 1);
                const double angle =
                    static_cast<float>(positions[static_cast<size_t>(r)]) * table.frequency[static_cast<size_t>(i)];
                const double c = 1.25 * std::cos(angle), s = 1.25 * std::sin(angle);
                const double size = 4 * 0x1p-24 * 1.25 * (std::fabs(before[a]) + std::fabs(before[b]));
                ASSERT_NEAR(x[a], before[a] * c - before[b] * s, size) << isa->isa << ", dims " << dims;
                ASSERT_NEAR(x[b], before[b] * c + before[a] * s, size) << isa->isa << ", dims " << dims;
              }
              for (int64_t i = dims; i < head_dim; ++i) {
                ASSERT_EQ(x[at + static_cast<size_t>(i)], before[at + static_cast<size_t>(i)]) << "beyond the dims";
              }
            }
          }
        }
      }
    }
  }
}

TEST(Rope, RowsDoNotDependOnEachOther) {
  for (const kernels::KernelTable* isa : usable_tables()) {
    const RopeTable table = table_of(RopeTable::Style::half, 32);
    const int64_t rows = 300, cols = 5 * 40;
    std::vector<int32_t> positions;
    for (int64_t r = 0; r < rows; ++r) positions.push_back(static_cast<int32_t>(r / 3));
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 3}) {
      Engine engine(*isa, threads);
      std::vector<float> x = normal_values(rows * cols, 4);
      rope(engine.context, table, positions, 5, {x.data(), rows, cols});
      results.push_back(x);
    }
    Engine engine(*isa);
    std::vector<float> x = normal_values(rows * cols, 4);
    for (int64_t r = 0; r < rows; ++r) {
      rope(engine.context, table, std::span(positions).subspan(static_cast<size_t>(r), 1), 5,
           {x.data() + r * cols, 1, cols});
    }
    EXPECT_EQ(x, results[0]) << isa->isa;
    EXPECT_EQ(x, results[1]) << isa->isa;
    EXPECT_EQ(x, results[2]) << isa->isa;
  }
}

TEST(Rope, RefusesWhatDoesNotFit) {
  Engine engine(*usable_tables().back());
  std::vector<float> x(2 * 24);
  const std::vector<int32_t> positions{0, 1};
  const Matrix m(x.data(), 2, 24);
  EXPECT_NO_THROW(rope(engine.context, table_of(RopeTable::Style::half, 8), positions, 3, m));
  EXPECT_THROW(rope(engine.context, table_of(RopeTable::Style::half, 10), positions, 3, m), base::Error);
  EXPECT_THROW(rope(engine.context, table_of(RopeTable::Style::half, 8), positions, 5, m), base::Error);
  EXPECT_THROW(rope(engine.context, table_of(RopeTable::Style::half, 8), std::span(positions).first(1), 3, m),
               base::Error);
  RopeTable short_table = table_of(RopeTable::Style::half, 8);
  short_table.frequency.pop_back();
  EXPECT_THROW(rope(engine.context, short_table, positions, 3, m), base::Error);
}

TEST(Embed, DecodesTheRowsOfItsIds) {
  const int64_t vocabulary = 50, width = 64;
  const std::vector<float> values = normal_values(vocabulary * width, 1);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::q8_0}) {
    std::vector<std::byte> bytes(static_cast<size_t>(vocabulary * tensor::row_bytes(dtype, width)));
    const tensor::Weight table(bytes.data(), dtype, vocabulary, width);
    for (int64_t r = 0; r < vocabulary; ++r) {
      quant::encode(dtype, values.data() + r * width, bytes.data() + r * table.row_stride, width);
    }
    for (const int64_t rows : {1, 7, 1000}) {
      Engine engine(*usable_tables().front(), 2);
      std::vector<int32_t> ids;
      for (int64_t r = 0; r < rows; ++r) ids.push_back(static_cast<int32_t>(r * 31 % vocabulary));
      std::vector<float> y(static_cast<size_t>(rows * width)), expected(static_cast<size_t>(width));
      embed(engine.context, ids, table, {y.data(), rows, width}, 3);
      for (int64_t r = 0; r < rows; ++r) {
        quant::decode(dtype, table.row(ids[static_cast<size_t>(r)]), expected.data(), width);
        for (int64_t i = 0; i < width; ++i) {
          ASSERT_EQ(y[static_cast<size_t>(r * width + i)], 3 * expected[static_cast<size_t>(i)]);
        }
      }
    }
    Engine engine(*usable_tables().front());
    std::vector<float> y(static_cast<size_t>(width));
    for (const int32_t id : {-1, 50}) {
      EXPECT_THROW(embed(engine.context, std::span(&id, 1), table, {y.data(), 1, width}), base::Error);
    }
  }
}

}  // namespace
}  // namespace coterie::ops
