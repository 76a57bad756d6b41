#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/elementwise.h"
#include "unit/ops/attention_harness.h"

// The ops around the row kernels: strides, heads, the split over threads, refusals. The kernels' arithmetic is tested
// in unit/kernels/vector_test.cpp.
namespace coterie::ops {
namespace {

using namespace test;

/// Rows with a gap after each that must stay as it was.
struct Strided {
  int64_t rows, cols, stride;
  std::vector<float> values;
  Strided(int64_t rows_, int64_t cols_, uint64_t key)
      : rows(rows_), cols(cols_), stride(cols_ + 5), values(normal_values(rows * stride, key)) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = cols; i < stride; ++i) values[static_cast<size_t>(r * stride + i)] = 1234;
    }
  }
  Matrix matrix() { return {values.data(), rows, cols, stride}; }
  float* row(int64_t r) { return values.data() + r * stride; }
  bool intact() const {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = cols; i < stride; ++i) {
        if (values[static_cast<size_t>(r * stride + i)] != 1234) return false;
      }
    }
    return true;
  }
};

// One small matrix, computed by the caller alone, and one large enough to be split.
constexpr int64_t kRows[] = {1, 3, 400};

TEST(Norm, RmsNormOfStridedRows) {
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table, 2);
    for (const int64_t rows : kRows) {
      Strided x(rows, 120, 1), y(rows, 120, 2);
      const std::vector<float> weight = normal_values(120, 3);
      rms_norm(engine.context, x.matrix(), weight.data(), 1e-6f, y.matrix(), 1);
      for (int64_t r = 0; r < rows; ++r) {
        double squares = 0;
        for (int64_t i = 0; i < 120; ++i) squares += static_cast<double>(x.row(r)[i]) * x.row(r)[i];
        for (int64_t i = 0; i < 120; ++i) {
          const double exact = x.row(r)[i] / std::sqrt(squares / 120 + 1e-6) * (1 + weight[static_cast<size_t>(i)]);
          ASSERT_NEAR(y.row(r)[i], exact, 1e-6 * (std::fabs(exact) + 1)) << table->isa;
        }
      }
      ASSERT_TRUE(y.intact());
    }
  }
}

TEST(Norm, RmsNormHeadsIsRmsNormOfEachPiece) {
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table, 2);
    for (const int64_t rows : kRows) {
      Strided x(rows, 6 * 20, 1), pieces(rows, 6 * 20, 1);
      const std::vector<float> weight = normal_values(20, 3);
      rms_norm_heads(engine.context, x.matrix(), 6, weight.data(), 1e-6f);
      for (int64_t h = 0; h < 6; ++h) {
        const Matrix piece = pieces.matrix().col_range(h * 20, h * 20 + 20);
        rms_norm(engine.context, piece, weight.data(), 1e-6f, piece);
      }
      ASSERT_EQ(x.values, pieces.values) << table->isa;
    }
  }
}

TEST(Norm, LayerNormCentresAndScales) {
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table, 2);
    for (const int64_t rows : kRows) {
      Strided x(rows, 120, 1), y(rows, 120, 2);
      const std::vector<float> weight(120, 1.0f), bias(120, 3.0f);
      layer_norm(engine.context, x.matrix(), weight.data(), bias.data(), 0, y.matrix());
      for (int64_t r = 0; r < rows; ++r) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < 120; ++i) mean += y.row(r)[i] / 120.0;
        for (int64_t i = 0; i < 120; ++i) variance += (y.row(r)[i] - mean) * (y.row(r)[i] - mean) / 120;
        ASSERT_NEAR(mean, 3, 1e-5) << table->isa;
        ASSERT_NEAR(variance, 1, 1e-5) << table->isa;
      }
      ASSERT_TRUE(y.intact());
    }
  }
}

TEST(Elementwise, AddClampAddGated) {
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table, 2);
    for (const int64_t rows : kRows) {
      Strided x(rows, 120, 1), y(rows, 120, 2), before(rows, 120, 2), gate(rows, 1, 3);
      add(engine.context, x.matrix(), y.matrix());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < 120; ++i) ASSERT_EQ(y.row(r)[i], x.row(r)[i] + before.row(r)[i]) << table->isa;
      }
      clamp(engine.context, y.matrix(), 0.5f);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < 120; ++i) {
          ASSERT_EQ(y.row(r)[i], std::clamp(x.row(r)[i] + before.row(r)[i], -0.5f, 0.5f)) << table->isa;
        }
      }
      add_gated(engine.context, x.matrix(), gate.matrix(), before.matrix());
      const Strided untouched(rows, 120, 2);
      for (int64_t r = 0; r < rows; ++r) {
        const double open = 1 / (1 + std::exp(-static_cast<double>(gate.row(r)[0])));
        for (int64_t i = 0; i < 120; ++i) {
          const double exact = open * x.row(r)[i] + untouched.values[static_cast<size_t>(r * untouched.stride + i)];
          ASSERT_NEAR(before.row(r)[i], exact, 4 * 0x1p-24 * (std::fabs(exact) + std::fabs(x.row(r)[i]))) << table->isa;
        }
      }
      ASSERT_TRUE(y.intact() && before.intact() && x.intact());
    }
  }
}

TEST(Elementwise, LogSoftmaxRowsSumToOne) {
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table, 2);
    for (const int64_t rows : kRows) {
      Strided x(rows, 300, 1), before(rows, 300, 1);
      log_softmax(engine.context, x.matrix());
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (int64_t i = 0; i < 300; ++i) sum += std::exp(static_cast<double>(x.row(r)[i]));
        ASSERT_NEAR(sum, 1, 1e-6) << table->isa;
        for (int64_t i = 1; i < 300; ++i) {
          ASSERT_NEAR(x.row(r)[i] - x.row(r)[0], before.row(r)[i] - before.row(r)[0], 3e-6) << table->isa;
        }
      }
      ASSERT_TRUE(x.intact());
    }
  }
}

TEST(Elementwise, SplitOverThreadsChangesNoBit) {
  for (const kernels::KernelTable* table : usable_tables()) {
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 3}) {
      Engine engine(*table, threads);
      Strided x(500, 130, 1), y(500, 130, 2);
      const std::vector<float> weight = normal_values(130, 3);
      rms_norm(engine.context, x.matrix(), weight.data(), 1e-5f, y.matrix());
      add(engine.context, x.matrix(), y.matrix(), 0.7f);
      log_softmax(engine.context, y.matrix());
      results.push_back(y.values);
    }
    EXPECT_EQ(results[0], results[1]) << table->isa;
    EXPECT_EQ(results[0], results[2]) << table->isa;
  }
}

TEST(Elementwise, RefuseShapesThatDiffer) {
  Engine engine(*usable_tables().back());
  Strided x(3, 10, 1), y(3, 11, 2), z(4, 10, 3);
  const std::vector<float> weight(11, 1.0f);
  EXPECT_THROW(rms_norm(engine.context, x.matrix(), weight.data(), 0, y.matrix()), base::Error);
  EXPECT_THROW(rms_norm(engine.context, x.matrix(), nullptr, 0, x.matrix()), base::Error);
  EXPECT_THROW(rms_norm_heads(engine.context, x.matrix(), 3, weight.data(), 0), base::Error);
  EXPECT_THROW(layer_norm(engine.context, x.matrix(), weight.data(), nullptr, 0, z.matrix()), base::Error);
  EXPECT_THROW(add(engine.context, x.matrix(), y.matrix()), base::Error);
  EXPECT_THROW(add_gated(engine.context, x.matrix(), z.matrix(), x.matrix()), base::Error);
  EXPECT_THROW(clamp(engine.context, x.matrix(), -1), base::Error);
  EXPECT_THROW(softcap(engine.context, x.matrix(), 0), base::Error);
}

}  // namespace
}  // namespace coterie::ops
