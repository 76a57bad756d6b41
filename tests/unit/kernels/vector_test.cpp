#include "kernels/vector.h"

#include <gtest/gtest.h>

#include "unit/kernels/vector_harness.h"

// Kernels on rows against their definitions in double, on each instruction set of this CPU, at every length around the
// vector widths, misaligned, between walls of NaN.
namespace coterie::kernels {
namespace {

using namespace test;

std::string describe(const KernelTable& table, int64_t n) {
  return std::string(table.isa) + ", n = " + std::to_string(n);
}

TEST(Vector, RmsNorm) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : lengths(1)) {
      Row<float> x = normal_row(n, 3 + static_cast<uint64_t>(n), 5), w = normal_row(n, 4 + static_cast<uint64_t>(n));
      Row<float> y(n, n + 1);
      for (const float offset : {0.0f, 1.0f}) {
        table->vector.rms_norm(x.data(), w.data(), 1e-5f, offset, y.data(), n);
        double squares = 0;
        for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
        const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
        // All terms are positive: the sum errs by less than n u relatively, its root by half of that.
        const double tolerance = (0.5 * static_cast<double>(n) + 6) * kUnit;
        for (int64_t i = 0; i < n; ++i) {
          const double exact = x[i] * inverse * (w[i] + static_cast<double>(offset));
          const double size = std::fabs(x[i] * inverse) * (std::fabs(w[i]) + offset);
          ASSERT_NEAR(y[i], exact, tolerance * size) << describe(*table, n) << ", i = " << i;
        }
        ASSERT_TRUE(x.intact() && w.intact() && y.intact()) << describe(*table, n);
      }
      std::vector<float> apart(y.data(), y.data() + n);
      table->vector.rms_norm(x.data(), w.data(), 1e-5f, 1, x.data(), n);  // in place
      ASSERT_EQ(0, std::memcmp(apart.data(), x.data(), static_cast<size_t>(n) * sizeof(float))) << describe(*table, n);
    }
  }
}

TEST(Vector, LayerNorm) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : lengths(2)) {
      const auto key = static_cast<uint64_t>(n);
      Row<float> x = normal_row(n, key, 3), w = normal_row(n, key + 1), b = normal_row(n, key + 2), y(n, n);
      for (int64_t i = 0; i < n; ++i) x[i] += 10;
      table->vector.layer_norm(x.data(), w.data(), b.data(), 1e-5f, y.data(), n);
      double mean = 0, variance = 0, largest = 0;
      for (int64_t i = 0; i < n; ++i) mean += x[i] / static_cast<double>(n);
      for (int64_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(n);
      for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(static_cast<double>(x[i])));
      const double inverse = 1 / std::sqrt(variance + 1e-5);
      // The mean errs by n u max|x|; that moves every value, and the variance in second order.
      const double shift = (static_cast<double>(n) + 2) * kUnit * largest;
      for (int64_t i = 0; i < n; ++i) {
        const double centred = (x[i] - mean) * inverse, exact = centred * w[i] + b[i];
        const double tolerance = (shift * inverse + (static_cast<double>(n) + 8) * kUnit * std::fabs(centred)) *
                                     std::fabs(w[i]) * (1 + shift * shift * inverse * inverse) +
                                 2 * kUnit * (std::fabs(exact) + std::fabs(b[i]));
        ASSERT_NEAR(y[i], exact, tolerance) << describe(*table, n) << ", i = " << i;
      }
      table->vector.layer_norm(x.data(), w.data(), nullptr, 1e-5f, x.data(), n);
      for (int64_t i = 0; i < n; ++i) ASSERT_NEAR(x[i], y[i] - b[i], 1e-5) << describe(*table, n);
      ASSERT_TRUE(x.intact() && w.intact() && b.intact() && y.intact()) << describe(*table, n);
    }
  }
}

TEST(Vector, AddScaleClamp) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : lengths()) {
      const auto key = static_cast<uint64_t>(n);
      Row<float> x = normal_row(n, key), y = normal_row(n, key + 5);
      const Row<float> before = normal_row(n, key + 5);
      table->vector.add_scaled(x.data(), 0.3f, y.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        const double product = static_cast<double>(0.3f) * x[i];
        ASSERT_NEAR(y[i], product + before[i], kUnit * (std::fabs(product) + std::fabs(y[i])));
      }
      Row<float> scaled = normal_row(n, key), clamped = normal_row(n, key);
      table->vector.scale(scaled.data(), 1.7f, n);
      table->vector.clamp(clamped.data(), 0.8f, n);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(scaled[i], x[i] * 1.7f) << describe(*table, n);
        ASSERT_EQ(clamped[i], std::min(std::max(x[i], -0.8f), 0.8f)) << describe(*table, n);
      }
      ASSERT_TRUE(x.intact() && y.intact() && scaled.intact() && clamped.intact()) << describe(*table, n);
    }
    float nan = std::numeric_limits<float>::quiet_NaN();
    table->vector.clamp(&nan, 1, 1);
    EXPECT_TRUE(std::isnan(nan)) << table->isa;
  }
}

TEST(Vector, SoftCap) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : lengths()) {
      Row<float> x = normal_row(n, static_cast<uint64_t>(n)), y = normal_row(n, static_cast<uint64_t>(n));
      table->vector.softcap(y.data(), 1.5f, n);
      for (int64_t i = 0; i < n; ++i)
        ASSERT_NEAR(y[i], 1.5 * std::tanh(static_cast<double>(x[i]) / 1.5), 1e-6) << describe(*table, n);
      ASSERT_TRUE(y.intact()) << describe(*table, n);
    }
    float far[] = {1e30f, -1e30f};
    table->vector.softcap(far, 30, 2);
    EXPECT_EQ(far[0], 30.0f) << table->isa;
    EXPECT_EQ(far[1], -30.0f) << table->isa;
  }
}

double exact_activation(Activation activation, double x) {
  switch (activation) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case Activation::relu: return std::max(x, 0.0);
    case Activation::relu2: return std::max(x, 0.0) * std::max(x, 0.0);
    case Activation::sigmoid: return 1 / (1 + std::exp(-x));
    case Activation::softplus: return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
    case Activation::identity: return x;
  }
  return 0;
}

constexpr Activation kActivations[] = {Activation::silu, Activation::gelu,  Activation::gelu_tanh,
                                       Activation::relu, Activation::relu2, Activation::identity};

TEST(Vector, ActivationsWithAndWithoutGate) {
  for (const KernelTable* table : usable_tables()) {
    for (const Activation activation : kActivations) {
      for (const int64_t n : lengths()) {
        const auto key = static_cast<uint64_t>(n);
        Row<float> x = normal_row(n, key, 3), up = normal_row(n, key + 1), gated = normal_row(n, key, 3);
        Row<float> alone = normal_row(n, key, 3);
        table->vector.activate(activation, gated.data(), up.data(), n);
        table->vector.activate(activation, alone.data(), nullptr, n);
        for (int64_t i = 0; i < n; ++i) {
          const double exact = exact_activation(activation, x[i]);
          // Where 1 + erf or 1 + tanh cancels, the error is that of the 1.
          ASSERT_NEAR(alone[i], exact, 6 * kUnit * std::max(std::fabs(exact), std::fabs(static_cast<double>(x[i]))))
              << describe(*table, n) << ", activation " << static_cast<int>(activation) << " of " << x[i];
          ASSERT_EQ(gated[i], alone[i] * up[i]) << describe(*table, n);
        }
        ASSERT_TRUE(gated.intact() && up.intact() && alone.intact()) << describe(*table, n);
      }
    }
    // Far out: no overflow on the way to a finite result.
    for (const Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
      float ends[] = {-1e30f, -200, -30, 0, 30, 200, 1e30f};
      table->vector.activate(activation, ends, nullptr, 7);
      for (int i = 0; i < 3; ++i) EXPECT_NEAR(ends[i], 0, 1e-11) << table->isa;
      EXPECT_EQ(ends[3], 0);
      EXPECT_FLOAT_EQ(ends[4], 30);
      EXPECT_FLOAT_EQ(ends[5], 200);
      EXPECT_FLOAT_EQ(ends[6], 1e30f);
    }
  }
}

TEST(Vector, ExpIsGoodToAnUlpEverywhere) {
  for (const KernelTable* table : usable_tables()) {
    double worst = 0;
    std::vector<float> x, y;
    for (double at = -110; at < 95; at += 0.0007) x.push_back(static_cast<float>(at));
    y.resize(x.size());
    table->vector.exp(x.data(), y.data(), static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, ulps(y[i], std::exp(static_cast<double>(x[i]))));
    EXPECT_LE(worst, 1.25) << table->isa;
    RecordProperty(std::string(table->isa) + "_worst_ulp", std::to_string(worst));

    const float infinity = std::numeric_limits<float>::infinity();
    float special[] = {0, -0.0f, infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), -1e30f, 1e30f, 1e-30f};
    table->vector.exp(special, special, 8);
    EXPECT_EQ(special[0], 1);
    EXPECT_EQ(special[1], 1);
    EXPECT_EQ(special[2], infinity);
    EXPECT_EQ(special[3], 0);
    EXPECT_TRUE(std::isnan(special[4])) << table->isa;
    EXPECT_EQ(special[5], 0);
    EXPECT_EQ(special[6], infinity);
    EXPECT_EQ(special[7], 1);
  }
}

TEST(Vector, Sigmoid) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : lengths()) {
      Row<float> x = normal_row(n, static_cast<uint64_t>(n), 8), y(n, n + 3);
      table->vector.sigmoid(x.data(), y.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_LE(ulps(y[i], 1 / (1 + std::exp(-static_cast<double>(x[i])))), 3) << describe(*table, n) << ", " << x[i];
      }
      ASSERT_TRUE(x.intact() && y.intact());
    }
  }
}

TEST(Vector, SoftmaxAndLogSoftmax) {
  std::vector<int64_t> sizes = lengths(1);
  sizes.push_back(150001);
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : sizes) {
      const auto key = static_cast<uint64_t>(n);
      Row<float> x = normal_row(n, key, 6), soft = normal_row(n, key, 6), log = normal_row(n, key, 6);
      table->vector.softmax(soft.data(), n);
      table->vector.log_softmax(log.data(), n);
      double largest = -INFINITY, sum = 0;
      for (int64_t i = 0; i < n; ++i) largest = std::max(largest, static_cast<double>(x[i]));
      for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - largest);
      // Sums of at most 1024 terms in f32 over several accumulators of 4 lanes or more.
      const double relative = (static_cast<double>(std::min<int64_t>(n, 1024)) / 4 + 8) * kUnit;
      for (int64_t i = 0; i < n; ++i) {
        const double exact = std::exp(x[i] - largest) / sum;
        const double argument = kUnit * std::fabs(x[i] - largest);
        ASSERT_NEAR(soft[i], exact, (relative + argument) * exact + 1e-44) << describe(*table, n);
        const double exact_log = x[i] - largest - std::log(sum);
        ASSERT_NEAR(log[i], exact_log, relative + argument + kUnit * (std::fabs(exact_log) + std::log(sum)))
            << describe(*table, n);
      }
      ASSERT_TRUE(soft.intact() && log.intact());
    }
  }
}

TEST(Vector, ArgmaxTakesTheLowestOfEqualsAndNoNaN) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : lengths(1)) {
      Row<float> x = normal_row(n, static_cast<uint64_t>(n));
      for (const int64_t at : {int64_t{0}, n / 2, n - 1}) {
        Row<float> y = normal_row(n, static_cast<uint64_t>(n));
        y[at] = 100, y[n - 1] = 100;
        ASSERT_EQ(table->vector.argmax(y.data(), n), at) << describe(*table, n);
      }
      if (n < 2) continue;
      x[0] = std::numeric_limits<float>::quiet_NaN();
      const int64_t found = table->vector.argmax(x.data(), n);
      ASSERT_NE(found, 0) << describe(*table, n);
      for (int64_t i = 1; i < n; ++i) ASSERT_LE(x[i], x[found]) << describe(*table, n);
    }
  }
}

}  // namespace
}  // namespace coterie::kernels
