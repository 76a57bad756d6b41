#include "ops/delta.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/elementwise.h"
#include "unit/ops/attention_harness.h"
#include "unit/ops/gradient_harness.h"

namespace coterie::ops {
namespace {

using test::Engine;
using test::normal_values;
using test::usable_tables;

tensor::Matrix matrix(std::vector<float>& values, int64_t cols) {
  return {values.data(), static_cast<int64_t>(values.size()) / cols, cols};
}

/// Columns of a wider matrix of NaN.
struct Padded {
  std::vector<float> values;
  int64_t rows, cols;
  Padded(const std::vector<float>& from, int64_t cols_) : rows(static_cast<int64_t>(from.size()) / cols_), cols(cols_) {
    values.assign(static_cast<size_t>(rows * (cols + 3)), NAN);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(from.data() + r * cols, cols, values.data() + r * (cols + 3) + 1);
  }
  tensor::Matrix view() { return matrix(values, cols + 3).col_range(1, cols + 1); }
};

/// A sequence for the delta rule, and its definition in double.
struct Problem {
  int64_t tokens;
  DeltaRule rule;
  bool by_key;
  std::vector<float> q, k, v, decay, beta;

  int64_t values() const { return rule.value_heads * rule.value_dim; }
  int64_t state_floats() const { return values() * rule.key_dim; }
  int64_t decays() const { return rule.value_heads * (by_key ? rule.key_dim : 1); }

  Problem(int64_t tokens_, DeltaRule rule_, bool by_key_, uint64_t key)
      : tokens(tokens_), rule(rule_), by_key(by_key_) {
    const int64_t keys = rule.key_heads * rule.key_dim;
    q = normal_values(tokens * keys, key), k = normal_values(tokens * keys, key + 1);
    v = normal_values(tokens * values(), key + 2);
    decay = normal_values(tokens * decays(), key + 3), beta = normal_values(tokens * rule.value_heads, key + 4);
    for (float& x : decay) x = 1 / (1 + std::exp(-x - 2));
    for (float& x : beta) x = 1 / (1 + std::exp(-x));
    for (std::vector<float>* part : {&q, &k})  // of length one, as layers have them
      for (size_t i = 0; i < part->size(); i += static_cast<size_t>(rule.key_dim)) {
        double squares = 0;
        for (int64_t c = 0; c < rule.key_dim; ++c)
          squares += std::pow(static_cast<double>((*part)[i + static_cast<size_t>(c)]), 2);
        for (int64_t c = 0; c < rule.key_dim; ++c)
          (*part)[i + static_cast<size_t>(c)] /= static_cast<float>(std::sqrt(squares));
      }
  }

  std::vector<double> expected() const {
    std::vector<double> y(v.size()), s(static_cast<size_t>(state_floats()));
    const int64_t dk = rule.key_dim, dv = rule.value_dim;
    const auto at = [](const std::vector<float>& m, int64_t row, int64_t cols, int64_t col) {
      return static_cast<double>(m[static_cast<size_t>(row * cols + col)]);
    };
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < rule.value_heads; ++h)
        for (int64_t c = 0; c < dv; ++c) {
          const int64_t key = rule.key_head(h) * dk, keys = rule.key_heads * dk;
          const auto cell = [&](int64_t i) -> double& { return s[static_cast<size_t>((h * dk + i) * dv + c)]; };
          double recalled = 0, read = 0;
          for (int64_t i = 0; i < dk; ++i) {
            cell(i) *= at(decay, t, decays(), by_key ? h * dk + i : h);
            recalled += at(k, t, keys, key + i) * cell(i);
          }
          const double u = at(beta, t, rule.value_heads, h) * (at(v, t, values(), h * dv + c) - recalled);
          for (int64_t i = 0; i < dk; ++i) {
            cell(i) += at(k, t, keys, key + i) * u;
            read += at(q, t, keys, key + i) * cell(i);
          }
          y[static_cast<size_t>(t * values() + h * dv + c)] = read;
        }
    return y;
  }

  /// In pieces of the given numbers of tokens, `state` carried along.
  std::vector<float> run(Context& context, const std::vector<int64_t>& pieces, std::vector<float>& state) {
    const int64_t keys = rule.key_heads * rule.key_dim;
    Padded qs(q, keys), ks(k, keys), vs(v, values()), ds(decay, decays()), bs(beta, rule.value_heads);
    std::vector<float> y(v.size(), NAN);
    int64_t at = 0;
    for (const int64_t rows : pieces) {
      const Recurrence sequence{0, rows, state.data()};
      const auto part = [&](Padded& m) { return tensor::ConstMatrix(m.view().row_range(at, at + rows)); };
      delta_rule(context, rule, {part(qs), part(ks), part(vs), part(ds), part(bs)}, {&sequence, 1},
                 matrix(y, values()).row_range(at, at + rows));
      at += rows;
    }
    return y;
  }
  std::vector<float> run(Context& context, const std::vector<int64_t>& pieces) {
    std::vector<float> state(static_cast<size_t>(state_floats()), 0.0f);
    return run(context, pieces, state);
  }
};

// {key heads, value heads, key channels, value channels, in turn}
std::vector<Problem> problems() {
  return {{150, {2, 4, 16, 37}, false, 1}, {70, {2, 4, 16, 37, true}, false, 2}, {9, {1, 1, 1, 1}, false, 3},
          {66, {3, 3, 20, 64}, true, 4},   {40, {2, 6, 33, 130}, true, 5},       {5, {1, 2, 7, 3}, true, 6}};
}

TEST(DeltaRule, IsItsDefinition) {
  for (const auto* table : usable_tables()) {
    Engine engine(*table);
    for (Problem& problem : problems()) {
      const std::vector<float> y = problem.run(engine.context, {problem.tokens});
      const std::vector<double> expected = problem.expected();
      // Keys of length one forget more than they write: errors of a step do not grow. Each step rounds sums of dk
      // terms.
      const double bound = 0x1p-24 * 8 * static_cast<double>(problem.rule.key_dim + 16);
      for (size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(y[i], expected[i], bound * (1 + std::fabs(expected[i]))) << table->isa << ' ' << i;
    }
  }
}

TEST(DeltaRule, AnyCutGivesTheSameBits) {
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

TEST(DeltaRule, NeitherThreadsNorNeighboursChangeBits) {
  for (const auto* table : usable_tables()) {
    Engine one(*table, 1), three(*table, 3);
    Problem problem(40, {2, 4, 32, 48}, true, 11);
    const std::vector<float> alone = problem.run(one.context, {40});
    EXPECT_EQ(problem.run(three.context, {40}), alone) << table->isa;

    // The rows as two sequences of one batch, the second with a state of its own.
    std::vector<float> y(problem.v.size(), NAN), first(static_cast<size_t>(problem.state_floats())), second = first;
    const std::vector<Recurrence> sequences = {{0, 25, first.data()}, {25, 15, second.data()}};
    delta_rule(three.context, problem.rule,
               {matrix(problem.q, 64), matrix(problem.k, 64), matrix(problem.v, 192), matrix(problem.decay, 128),
                matrix(problem.beta, 4)},
               sequences, matrix(y, 192));
    EXPECT_TRUE(std::equal(y.begin(), y.begin() + 25 * 192, alone.begin()));
    std::vector<float> state(static_cast<size_t>(problem.state_floats()));
    problem.run(one.context, {25}, state);
    EXPECT_EQ(first, state);
  }
}

TEST(DeltaRule, RefusesWhatDoesNotFit) {
  Engine engine(*usable_tables().back());
  Problem p(4, {2, 4, 8, 6}, false, 1);
  std::vector<float> y(p.v.size()), state(static_cast<size_t>(p.state_floats()));
  const Recurrence sequence{0, 4, state.data()}, stateless{0, 4, nullptr};
  const DeltaInputs in{matrix(p.q, 16), matrix(p.k, 16), matrix(p.v, 24), matrix(p.decay, 4), matrix(p.beta, 4)};
  EXPECT_THROW(delta_rule(engine.context, p.rule, in, {&stateless, 1}, matrix(y, 24)), base::Error);
  EXPECT_THROW(delta_rule(engine.context, {2, 3, 8, 6}, in, {&sequence, 1}, matrix(y, 24)), base::Error);
  EXPECT_THROW(delta_rule(engine.context, {2, 4, 8, 5}, in, {&sequence, 1}, matrix(y, 24)), base::Error);
  EXPECT_THROW(delta_rule(engine.context, p.rule, in, {&sequence, 1}, matrix(p.v, 24)), base::Error);
  EXPECT_THROW(decay(engine.context, {3, p.q.data(), p.k.data()}, matrix(p.decay, 4), matrix(y, 4)), base::Error);
}

TEST(Decay, IsItsDefinition) {
  constexpr int64_t kHeads = 3, kWidth = 5, kRows = 4;
  for (const auto* table : usable_tables())
    for (const float floor : {0.0f, -5.0f}) {
      Engine engine(*table);
      std::vector<float> x = normal_values(kRows * kHeads * kWidth, 1, 3), y(x.size());
      const std::vector<float> bias = normal_values(kHeads * kWidth, 2);
      const std::vector<float> a = {-0.25f, -1.5f, -4.0f};
      decay(engine.context, {kHeads, a.data(), bias.data(), floor}, matrix(x, kHeads * kWidth),
            matrix(y, kHeads * kWidth));
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t col = i % (kHeads * kWidth);
        const double f = static_cast<double>(x[i]) + static_cast<double>(bias[col]), rate = a[col / kWidth];
        const double g = floor == 0 ? rate * std::log1p(std::exp(f)) : floor / (1 + std::exp(rate * f));
        ASSERT_NEAR(y[i], std::exp(g), 4e-6 * std::exp(g) * (1 + std::fabs(g))) << table->isa << ' ' << i;
      }
    }
}

/// Two sequences, the first of them in two calls: its state passes gradients from the second to the first.
TEST(DeltaRuleGradient, EqualsFiniteDifferencesThroughTheStateToo) {
  constexpr int64_t kRows = 7, kKeys = 3, kValues = 2;
  for (const bool by_key : {false, true})
    for (const bool by_turn : {false, true}) {
      const DeltaRule rule{2, 4, kKeys, kValues, by_turn};
      gradient::Check check;
      const int64_t decays = by_key ? 4 * kKeys : 4;
      const size_t q = check.leaf(kRows * 2 * kKeys, 0.5), k = check.leaf(kRows * 2 * kKeys, 0.5);
      const size_t v = check.leaf(kRows * 4 * kValues), decay = check.leaf(kRows * decays, 0.1, 0.7);
      const size_t beta = check.leaf(kRows * 4, 0.1, 0.5);
      std::vector<float> first(static_cast<size_t>(4 * kKeys * kValues)), second(first);
      check.run([&](Context& context) {
        const DeltaInputs in{check.activation(context, q, 2 * kKeys), check.activation(context, k, 2 * kKeys),
                             check.activation(context, v, 4 * kValues), check.activation(context, decay, decays),
                             check.activation(context, beta, 4)};
        const Matrix y = context.arena.matrix(kRows, 4 * kValues);
        std::fill(first.begin(), first.end(), 0.0f), std::fill(second.begin(), second.end(), 0.0f);
        const std::vector<Recurrence> calls[] = {{{0, 3, first.data()}}, {{3, 2, first.data()}, {5, 2, second.data()}}};
        for (const std::vector<Recurrence>& call : calls) delta_rule(context, rule, in, call, y);
        return y;
      });
    }
}

TEST(DecayGradient, EqualsFiniteDifferences) {
  constexpr int64_t kHeads = 2, kWidth = 3, kRows = 4;
  for (const float floor : {0.0f, -2.0f}) {
    gradient::Check check;
    const size_t x = check.leaf(kRows * kHeads * kWidth), bias = check.leaf(kHeads * kWidth);
    const size_t a = check.leaf(kHeads, 0.1, -0.8);
    check.run([&](Context& context) {
      const Matrix in = check.activation(context, x, kHeads * kWidth);
      const Matrix y = context.arena.matrix(kRows, kHeads * kWidth);
      decay(context, {kHeads, check.values(a), check.values(bias), floor}, in, y);
      return y;
    });
  }
}

TEST(ScaleHeadsGradient, EqualsFiniteDifferences) {
  gradient::Check check;
  const size_t x = check.leaf(3 * 8), factor = check.leaf(3 * 2);
  check.run([&](Context& context) {
    const Matrix y = context.arena.matrix(3, 8);
    copy(context, check.activation(context, x, 8), y);
    scale_heads(context, check.activation(context, factor, 2), y);
    return y;
  });
}

}  // namespace
}  // namespace coterie::ops
