#include "ops/scan.h"

#include <gtest/gtest.h>

#include <cmath>

#include "unit/ops/attention_harness.h"

namespace coterie::ops {
namespace {

using test::Engine;
using test::normal_values;
using test::usable_tables;

constexpr double kUnit = 0x1p-24;

tensor::Matrix matrix(std::vector<float>& values, int64_t cols) {
  return {values.data(), static_cast<int64_t>(values.size()) / cols, cols};
}

/// A sequence for one of the scans, and its definition in double.
struct Problem {
  int64_t tokens, channels, heads, states, groups;
  bool per_head;  // Mamba-2: one dt and decay a head
  std::vector<float> x, dt, b, c, a, d;

  int64_t steps() const { return per_head ? heads : channels; }  // columns of dt
  int64_t state_floats() const { return channels * states; }

  Problem(int64_t tokens_, int64_t channels_, int64_t heads_, int64_t states_, int64_t groups_, bool per_head_,
          uint64_t key)
      : tokens(tokens_), channels(channels_), heads(heads_), states(states_), groups(groups_), per_head(per_head_) {
    x = normal_values(tokens * channels, key);
    dt = normal_values(tokens * steps(), key + 1);
    b = normal_values(tokens * groups * states, key + 2), c = normal_values(tokens * groups * states, key + 3);
    a = normal_values(per_head ? heads : states * channels, key + 4);
    d = normal_values(per_head ? heads : channels, key + 5);
    for (float& v : dt) v = std::log1p(std::exp(v - 1));
    for (float& v : a) v = -std::exp(v);
  }

  struct Expected {
    std::vector<double> y, size;
  };
  Expected expected() const {
    Expected result;
    std::vector<double> h(static_cast<size_t>(state_floats())), size(h.size());
    const int64_t per_head_channels = channels / heads;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t ch = 0; ch < channels; ++ch) {
        const int64_t head = ch / per_head_channels, step = per_head ? head : ch;
        const int64_t group = per_head ? head / (heads / groups) : ch / (channels / groups);
        const double u = x[static_cast<size_t>(t * channels + ch)];
        const double delta = dt[static_cast<size_t>(t * steps() + step)];
        const double skip = d[static_cast<size_t>(per_head ? head : ch)] * u;
        double y = skip, magnitude = std::fabs(skip);
        for (int64_t s = 0; s < states; ++s) {
          const auto i = static_cast<size_t>(ch * states + s);
          const auto in = static_cast<size_t>((t * groups + group) * states + s);
          const double decay = std::exp(delta * a[static_cast<size_t>(per_head ? head : s * channels + ch)]);
          h[i] = decay * h[i] + delta * u * b[in];
          size[i] = decay * size[i] + std::fabs(delta * u * b[in]);
          y += h[i] * c[in], magnitude += size[i] * std::fabs(c[in]);
        }
        result.y.push_back(y), result.size.push_back(magnitude);
      }
    return result;
  }

  /// In pieces of the given numbers of tokens, `state` carried along.
  std::vector<float> run(Context& context, const std::vector<int64_t>& pieces, std::vector<float>& state) {
    std::vector<float> y(x.size(), NAN);
    const tensor::Matrix xs = matrix(x, channels), dts = matrix(dt, steps()), ys = matrix(y, channels);
    const tensor::Matrix bs = matrix(b, groups * states), cs = matrix(c, groups * states);
    int64_t at = 0;
    for (const int64_t rows : pieces) {
      const Recurrence sequence{0, rows, state.data()};
      const ScanInputs inputs{bs.row_range(at, at + rows), cs.row_range(at, at + rows), groups, states};
      if (per_head)
        head_scan(context, {heads, states, a.data(), d.data()}, xs.row_range(at, at + rows),
                  dts.row_range(at, at + rows), inputs, {&sequence, 1}, ys.row_range(at, at + rows));
      else
        selective_scan(context, {states, a.data(), d.data()}, xs.row_range(at, at + rows), dts.row_range(at, at + rows),
                       inputs, {&sequence, 1}, ys.row_range(at, at + rows));
      at += rows;
    }
    return y;
  }
  std::vector<float> run(Context& context, const std::vector<int64_t>& pieces) {
    std::vector<float> state(static_cast<size_t>(state_floats()), 0.0f);
    return run(context, pieces, state);
  }
};

std::vector<Problem> problems() {
  return {{150, 37, 1, 16, 1, false, 1}, {9, 96, 2, 8, 2, false, 2},   {5, 3, 1, 1, 1, false, 3},
          {70, 130, 1, 5, 1, false, 4},  {150, 48, 3, 20, 1, true, 5}, {66, 64, 4, 33, 2, true, 6},
          {7, 6, 6, 16, 3, true, 7}};
}

TEST(Scan, IsItsDefinition) {
  for (const auto* table : usable_tables()) {
    Engine engine(*table);
    for (Problem& problem : problems()) {
      const std::vector<float> y = problem.run(engine.context, {problem.tokens});
      const Problem::Expected expected = problem.expected();
      // A term passes at most all tokens' decays, three roundings and two ulp of exp each, then a sum over the states.
      const double steps = 5.0 * static_cast<double>(problem.tokens) + static_cast<double>(problem.states) + 8;
      for (size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(y[i], expected.y[i], steps * kUnit * expected.size[i]) << table->isa << ' ' << i;
    }
  }
}

TEST(Scan, AnyCutGivesTheSameBits) {
  for (const auto* table : usable_tables()) {
    Engine engine(*table, 2);
    for (Problem& problem : problems()) {
      const std::vector<float> whole = problem.run(engine.context, {problem.tokens});
      const std::vector<int64_t> one_by_one(static_cast<size_t>(problem.tokens), 1);
      EXPECT_EQ(problem.run(engine.context, one_by_one), whole) << table->isa;
      EXPECT_EQ(problem.run(engine.context, {3, problem.tokens - 4, 0, 1}), whole) << table->isa;
    }
  }
}

TEST(Scan, NeitherThreadsNorNeighboursChangeBits) {
  for (const auto* table : usable_tables()) {
    Engine one(*table, 1), three(*table, 3);
    Problem problem(40, 128, 4, 32, 2, true, 11);
    const std::vector<float> alone = problem.run(one.context, {40});
    EXPECT_EQ(problem.run(three.context, {40}), alone) << table->isa;

    // The rows as two sequences of one batch, the second with a state of its own.
    std::vector<float> y(problem.x.size(), NAN), first(static_cast<size_t>(problem.state_floats())), second = first;
    const std::vector<Recurrence> sequences = {{0, 25, first.data()}, {25, 15, second.data()}};
    head_scan(three.context, {4, 32, problem.a.data(), problem.d.data()}, matrix(problem.x, 128), matrix(problem.dt, 4),
              {matrix(problem.b, 64), matrix(problem.c, 64), 2, 32}, sequences, matrix(y, 128));
    EXPECT_TRUE(std::equal(y.begin(), y.begin() + 25 * 128, alone.begin()));
    std::vector<float> state(static_cast<size_t>(problem.state_floats()));
    problem.run(one.context, {25}, state);
    EXPECT_EQ(first, state);
  }
}

TEST(Scan, SoftplusIsExactAndClamped) {
  for (const auto* table : usable_tables()) {
    Engine engine(*table);
    std::vector<float> x = normal_values(1003, 5, 20);
    x[0] = -200, x[1] = 200, x[2] = 0, x[3] = -17, x[4] = INFINITY, x[5] = -INFINITY;
    const std::vector<float> bias = normal_values(1003, 6);
    std::vector<float> y(x.size());
    softplus(engine.context, {x.data(), 1, 1003}, nullptr, {y.data(), 1, 1003});
    EXPECT_EQ(y[4], INFINITY);
    for (size_t i = 0; i < x.size(); ++i) {
      if (std::isinf(x[i])) continue;
      const double exact = std::log1p(std::exp(-std::fabs(static_cast<double>(x[i])))) + std::max(x[i], 0.0f);
      ASSERT_NEAR(y[i], exact, 8 * kUnit * exact + 1e-44) << table->isa << ' ' << x[i];
    }
    softplus(engine.context, {x.data(), 1, 1003}, bias.data(), {y.data(), 1, 1003}, 0.25f, 1.5f);
    for (size_t i = 6; i < x.size(); ++i) {
      const double sum = x[i] + bias[i];
      const double exact = std::clamp(std::log1p(std::exp(-std::fabs(sum))) + std::max(sum, 0.0), 0.25, 1.5);
      ASSERT_NEAR(y[i], exact, 1e-5) << table->isa;
    }
  }
}

std::vector<float> convolved(Context& context, std::vector<float>& x, const std::vector<int64_t>& pieces,
                             const Convolution& convolution, int64_t channels, std::vector<float>& state) {
  std::vector<float> y(x.size(), NAN);
  int64_t at = 0;
  for (const int64_t rows : pieces) {
    const Recurrence sequence{0, rows, state.data()};
    causal_conv1d(context, convolution, matrix(x, channels).row_range(at, at + rows), {&sequence, 1},
                  matrix(y, channels).row_range(at, at + rows));
    at += rows;
  }
  return y;
}

TEST(Convolution, IsItsDefinitionHoweverCut) {
  constexpr int64_t kTokens = 41;
  for (const auto* table : usable_tables())
    for (const int64_t channels : {1, 17, 300})
      for (const int64_t width : {1, 2, 4, 7}) {
        Engine engine(*table, 2);
        std::vector<float> x = normal_values(kTokens * channels, 1);
        const std::vector<float> taps = normal_values(width * channels, 2), bias = normal_values(channels, 3);
        const Convolution convolution{width, taps.data(), bias.data(), kernels::Activation::silu};
        const std::vector<float> zeros(static_cast<size_t>((width - 1) * channels));
        std::vector<float> state = zeros;
        const std::vector<float> whole = convolved(engine.context, x, {kTokens}, convolution, channels, state);
        for (int64_t t = 0; t < kTokens; ++t)
          for (int64_t ch = 0; ch < channels; ++ch) {
            double sum = bias[static_cast<size_t>(ch)], size = std::fabs(sum);
            for (int64_t k = 0; k < width; ++k) {
              const int64_t from = t - width + 1 + k;
              if (from < 0) continue;
              const double term = static_cast<double>(taps[static_cast<size_t>(k * channels + ch)]) *
                                  x[static_cast<size_t>(from * channels + ch)];
              sum += term, size += std::fabs(term);
            }
            ASSERT_NEAR(whole[static_cast<size_t>(t * channels + ch)], sum / (1 + std::exp(-sum)), 40 * kUnit * size);
          }
        for (const std::vector<int64_t>& pieces :
             {std::vector<int64_t>(kTokens, 1), std::vector<int64_t>{2, 1, 30, 0, 8}, std::vector<int64_t>{1, 40}}) {
          std::vector<float> again = zeros;
          EXPECT_EQ(convolved(engine.context, x, pieces, convolution, channels, again), whole) << table->isa;
          EXPECT_EQ(again, state);
        }
      }
}

TEST(Scan, RefusesWhatDoesNotFit) {
  Engine engine(*usable_tables().back());
  std::vector<float> x(24), y(24), small(3);
  const Recurrence sequence{0, 4, small.data()}, outside{2, 4, small.data()}, stateless{0, 4, nullptr};
  const Convolution convolution{2, x.data(), nullptr, kernels::Activation::silu};
  EXPECT_THROW(causal_conv1d(engine.context, convolution, matrix(x, 6), {&outside, 1}, matrix(y, 6)), base::Error);
  EXPECT_THROW(causal_conv1d(engine.context, convolution, matrix(x, 6), {&stateless, 1}, matrix(y, 6)), base::Error);
  EXPECT_THROW(causal_conv1d(engine.context, convolution, matrix(x, 6), {&sequence, 1}, matrix(x, 6)), base::Error);
  const ScanInputs inputs{matrix(x, 6), matrix(x, 6), 1, 6}, groups{matrix(x, 6), matrix(x, 6), 4, 1};
  EXPECT_THROW(selective_scan(engine.context, {7, x.data(), x.data()}, matrix(x, 6), matrix(x, 6), inputs,
                              {&sequence, 1}, matrix(y, 6)),
               base::Error);
  EXPECT_THROW(selective_scan(engine.context, {1, x.data(), x.data()}, matrix(x, 6), matrix(x, 6), groups,
                              {&sequence, 1}, matrix(y, 6)),
               base::Error);
  EXPECT_THROW(head_scan(engine.context, {4, 1, x.data(), x.data()}, matrix(x, 6), matrix(x, 4), inputs, {&sequence, 1},
                         matrix(y, 6)),
               base::Error);
  EXPECT_THROW(softplus(engine.context, matrix(x, 6), nullptr, matrix(y, 6), 2, 1), base::Error);
}

}  // namespace
}  // namespace coterie::ops
