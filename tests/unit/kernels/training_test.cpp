#include "kernels/training.h"

#include <gtest/gtest.h>

#include "unit/kernels/vector_harness.h"

// Kernels for training against their definitions in double, as in vector_test.cpp.
namespace coterie::kernels {
namespace {

using namespace test;

std::string describe(const KernelTable& table, int64_t n) {
  return std::string(table.isa) + ", n = " + std::to_string(n);
}

TEST(TrainingKernels, AdamWIsItsFormula) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : lengths()) {
      const auto key = static_cast<uint64_t>(n);
      Row<float> w = normal_row(n, key), g = normal_row(n, key + 1), m = normal_row(n, key + 2),
                 v = normal_row(n, key + 3);
      for (int64_t i = 0; i < n; ++i) v[i] *= v[i];
      const Row<float> w0 = normal_row(n, key), g0 = normal_row(n, key + 1), m0 = normal_row(n, key + 2);
      const Row<float> v0 = normal_row(n, key + 3);
      AdamWTask task;
      task.beta1 = 0.9f, task.beta2 = 0.95f, task.step_size = 0.01f, task.root_scale = 1.5f, task.eps = 1e-8f;
      task.keep = 0.999f, task.gradient_scale = 0.5f, task.clear = n % 2 == 0;
      task.weight = w.data(), task.gradient = g.data(), task.first = m.data(), task.second = v.data(), task.n = n;
      table->training.adamw(task);
      for (int64_t i = 0; i < n; ++i) {
        const double gradient = 0.5 * static_cast<double>(g0[i]), square = static_cast<double>(v0[i] * v0[i]);
        const double first =
            static_cast<double>(0.9f) * static_cast<double>(m0[i]) + static_cast<double>(1 - 0.9f) * gradient;
        const double second =
            static_cast<double>(0.95f) * square + static_cast<double>(1 - 0.95f) * gradient * gradient;
        const double step = static_cast<double>(0.01f) * first / (std::sqrt(second) * 1.5 + 1e-8);
        const double size = std::fabs(static_cast<double>(m0[i])) + std::fabs(gradient);
        ASSERT_NEAR(m[i], first, 4 * kUnit * size) << describe(*table, n);
        ASSERT_NEAR(v[i], second, 8 * kUnit * second) << describe(*table, n);
        ASSERT_NEAR(w[i], static_cast<double>(0.999f) * static_cast<double>(w0[i]) - step,
                    4 * kUnit * std::fabs(static_cast<double>(w0[i])) + 16 * kUnit * 0.01 * size / std::sqrt(second))
            << describe(*table, n);
        ASSERT_EQ(g[i], task.clear ? 0 : g0[i]) << describe(*table, n);
      }
      ASSERT_TRUE(w.intact() && g.intact() && m.intact() && v.intact()) << describe(*table, n);
    }
  }
}

// The value and slope by activation_slope, which has its own test.
TEST(TrainingKernels, GateBackIsItsFormula) {
  for (const KernelTable* table : usable_tables()) {
    for (const Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu,
                                        Activation::relu2, Activation::identity}) {
      for (const int64_t n : lengths()) {
        for (const bool gated : {false, true}) {
          const auto key = static_cast<uint64_t>(n);
          const Row<float> gate0 = normal_row(n, key, 3), up0 = normal_row(n, key + 1);
          Row<float> gate = normal_row(n, key, 3), up = normal_row(n, key + 1), dh = normal_row(n, key + 2);
          Row<float> weighted(n, 3), value(n, 4), slope(n, 5);
          table->vector.activation_slope(activation, gate.data(), value.data(), slope.data(), n);
          const float along = table->training.gate_back(
              {activation, 0.3f, dh.data(), gate.data(), gated ? up.data() : nullptr, weighted.data(), n});
          double sum = 0, size = 0;
          for (int64_t i = 0; i < n; ++i) {
            const double u = gated ? static_cast<double>(up0[i]) : 1, d = static_cast<double>(0.3f) * dh[i];
            const double h = value[i] * u;
            sum += dh[i] * h, size += std::fabs(dh[i] * h);
            const double unit = 16 * kUnit * (1 + std::fabs(static_cast<double>(gate0[i])));
            ASSERT_NEAR(weighted[i], static_cast<double>(0.3f) * h, unit * (std::fabs(u) + std::fabs(h)));
            ASSERT_NEAR(gate[i], d * u * slope[i], unit * std::fabs(d * u) * 4);
            ASSERT_NEAR(up[i], gated ? d * value[i] : static_cast<double>(up0[i]), unit * (std::fabs(d) + 1e-30));
          }
          ASSERT_NEAR(along, sum, (static_cast<double>(n) + 64) * kUnit * (size + 1)) << describe(*table, n);
          ASSERT_TRUE(gate.intact() && up.intact() && dh.intact() && weighted.intact()) << describe(*table, n);
        }
      }
    }
  }
}

TEST(TrainingKernels, SoftmaxBackIsItsFormula) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : lengths(1)) {
      const auto key = static_cast<uint64_t>(n);
      Row<float> p = normal_row(n, key), d = normal_row(n, key + 1);
      const Row<float> d0 = normal_row(n, key + 1);
      table->vector.softmax(p.data(), n);
      const float along = table->training.softmax_back(p.data(), d.data(), 0.7f, n);
      double sum = 0, size = 0;
      for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(p[i]) * d0[i];
      for (int64_t i = 0; i < n; ++i) size += std::fabs(static_cast<double>(p[i]) * d0[i]);
      const double tolerance = (static_cast<double>(std::min<int64_t>(n, 1024)) / 8 + 8) * kUnit * size;
      ASSERT_NEAR(along, sum, tolerance) << describe(*table, n);
      for (int64_t i = 0; i < n; ++i)
        ASSERT_NEAR(d[i], static_cast<double>(0.7f) * p[i] * (d0[i] - sum),
                    p[i] * (tolerance + 4 * kUnit * (std::fabs(static_cast<double>(d0[i])) + std::fabs(sum))))
            << describe(*table, n);
      ASSERT_TRUE(p.intact() && d.intact()) << describe(*table, n);
    }
  }
}

TEST(TrainingKernels, SumOfSquaresIsInDouble) {
  for (const KernelTable* table : usable_tables()) {
    for (const int64_t n : lengths()) {
      Row<float> x = normal_row(n, static_cast<uint64_t>(n), 1e25f);  // whose squares f32 does not hold
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
      ASSERT_NEAR(table->training.sum_of_squares(x.data(), n), sum, static_cast<double>(n) * 0x1p-52 * sum)
          << describe(*table, n);
      ASSERT_TRUE(x.intact()) << describe(*table, n);
    }
  }
}

}  // namespace
}  // namespace coterie::kernels
