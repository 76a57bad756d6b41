#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "kernels/table.h"
#include "ops/tape.h"
#include "tensor/arena.h"
#include "threads/pool.h"

// Gradients against finite differences. A test gives leaves (named floats) and a function of them that runs ops; the
// loss is a fixed random weighting of its result, summed in f64. Differences are of fourth order,
//   f' = (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h,
// so that with f32 arithmetic inside f both the truncation and the rounding stay below kTolerance of the largest
// gradient of a leaf.
namespace coterie::ops::gradient {

inline constexpr double kStep = 1.0 / 64, kTolerance = 2e-3;

class Check {
 public:
  explicit Check(int threads = 2) : pool_(threads) {}

  /// A leaf of `count` values drawn from N(0, 1) * scale + offset.
  size_t leaf(int64_t count, double scale = 1, double offset = 0) {
    std::vector<float>& values = leaves_.emplace_back();
    for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<float>(rng_.normal() * scale + offset));
    gradients_.emplace_back(values.size(), 0.0f);
    return leaves_.size() - 1;
  }
  float* values(size_t leaf) { return leaves_[leaf].data(); }
  const std::vector<float>& gradient(size_t leaf) const { return gradients_[leaf]; }

  /// The leaf as an activation [rows, cols] in the arena.
  tensor::Matrix activation(Context& context, size_t leaf, int64_t cols) {
    const auto count = static_cast<int64_t>(leaves_[leaf].size());
    const tensor::Matrix m = context.arena.matrix(count / cols, cols);
    std::copy(leaves_[leaf].begin(), leaves_[leaf].end(), m.data);
    if (context.tape)
      context.tape->record({m}, [this, leaf, m](Reverse& back) {
        const tensor::Matrix g = back.gradient(m);
        for (size_t i = 0; i < gradients_[leaf].size(); ++i) gradients_[leaf][i] += std::exchange(g.data[i], 0.0f);
      });
    return m;
  }
  tensor::Weight weight(size_t leaf, int64_t rows, int64_t cols) {
    return {reinterpret_cast<const std::byte*>(leaves_[leaf].data()), tensor::DType::f32, rows, cols};
  }

  using Function = std::function<tensor::Matrix(Context&)>;

  /// The gradients by all leaves, through a tape.
  void go_back(const Function& function) {
    tensor::Arena arena;
    with_tape(arena, [&](Context& context, Tape& tape) {
      const tensor::Matrix y = function(context);
      tape.record({}, [y](Reverse& back) {
        const tensor::Matrix g = back.gradient(y);
        for (int64_t r = 0; r < y.rows; ++r)
          for (int64_t c = 0; c < y.cols; ++c) g.row(r)[c] += static_cast<float>(weighting(r * y.cols + c));
      });
    });
  }

  void run(const Function& function) {
    go_back(function);
    compare([&] { return loss(function); });
  }

  /// For an op at which the backward pass begins: its value is the loss.
  void run_scalar(const std::function<double(Context&)>& function) {
    tensor::Arena arena;
    with_tape(arena, [&](Context& context, Tape&) { function(context); });
    compare([&] {
      tensor::Arena fresh;
      Context context{pool_, kernels::select(), fresh, Precision::f32};
      return function(context);
    });
  }

 private:
  void compare(const std::function<double()>& loss) {
    for (size_t leaf = 0; leaf < leaves_.size(); ++leaf) {
      double largest = 1e-3;
      for (const float g : gradients_[leaf]) largest = std::max(largest, std::abs(static_cast<double>(g)));
      for (size_t i = 0; i < leaves_[leaf].size(); ++i) {
        float& value = leaves_[leaf][i];
        const float kept = value;
        const auto at = [&](double steps) {
          value = kept + static_cast<float>(steps * kStep);
          return loss();
        };
        const double slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * kStep);
        value = kept;
        EXPECT_NEAR(static_cast<double>(gradients_[leaf][i]), slope, kTolerance * largest)
            << "leaf " << leaf << ", value " << i;
      }
    }
  }

  void with_tape(tensor::Arena& arena, const std::function<void(Context&, Tape&)>& forward) {
    ParameterGradients parameters;
    for (size_t i = 0; i < leaves_.size(); ++i) {
      std::fill(gradients_[i].begin(), gradients_[i].end(), 0.0f);
      parameters.add(leaves_[i].data(), static_cast<int64_t>(leaves_[i].size()), gradients_[i].data());
    }
    Context context{pool_, kernels::select(), arena, Precision::f32};
    Tape tape(arena, parameters);
    context.tape = &tape;
    forward(context, tape);
    context.tape = nullptr;
    tape.backward(context);
  }

  static double weighting(int64_t i) { return std::sin(1.7 * static_cast<double>(i) + 0.3) + 0.2; }

  double loss(const Function& function) {
    tensor::Arena arena;
    Context context{pool_, kernels::select(), arena, Precision::f32};
    const tensor::Matrix y = function(context);
    double sum = 0;
    for (int64_t r = 0; r < y.rows; ++r)
      for (int64_t c = 0; c < y.cols; ++c) sum += weighting(r * y.cols + c) * static_cast<double>(y.row(r)[c]);
    return sum;
  }

  threads::Pool pool_;
  base::Rng rng_{7};
  std::vector<std::vector<float>> leaves_, gradients_;
};

/// The same gradients to the bit with one, two and three threads.
inline void expect_same_bits(const std::function<std::vector<std::vector<float>>(int threads)>& gradients) {
  const auto one = gradients(1);
  EXPECT_EQ(one, gradients(2));
  EXPECT_EQ(one, gradients(3));
}

}  // namespace coterie::ops::gradient
