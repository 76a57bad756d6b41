#include "surgery/ensemble/ensemble_fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/rng.h"
#include "threads/pool.h"

namespace coterie::surgery {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

families::Gate gate_of(int64_t models, int64_t top_k) {
  families::Gate gate;
  gate.kind = families::Gate::Kind::token;
  gate.models.resize(static_cast<size_t>(models));
  gate.top_k = top_k;
  return gate;
}

/// States around two points far from zero, one for each model, and what says whose they are.
GateSamples two_kinds(int64_t count, bool labels, uint64_t seed) {
  GateSamples samples{.width = 12, .models = 2};
  base::Rng rng(seed, 1);
  for (int64_t s = 0; s < count; ++s) {
    const bool second = s % 2 == 1;
    for (int64_t d = 0; d < 12; ++d) samples.x.push_back(5 + rng.normal() + (d == 3 ? (second ? 3.0f : -3.0f) : 0));
    for (int64_t m = 0; m < 2; ++m) {
      const bool right = (m == 1) == second;
      samples.log_p.push_back(labels ? (right ? 0 : kNever) : (right ? -1.0f : -4.0f));
    }
    samples.weight.push_back(1), samples.tokens.push_back(1);
  }
  return samples;
}

TEST(EnsembleFit, LearnsWhoseAStateIsFromLabels) {
  threads::Pool pool(2);
  families::Gate gate = gate_of(2, 1);
  fit_gate(two_kinds(200, true, 1), {}, pool, gate);
  const GateScore score = score_gate(gate, two_kinds(100, true, 2), true);
  EXPECT_GE(score.right, 0.98);
  EXPECT_LT(score.gated, 0.1);
  EXPECT_NEAR(score.uniform, std::log(2), 1e-6);
  EXPECT_TRUE(score.alone.empty());
}

TEST(EnsembleFit, LearnsFromWhatTheModelsPredict) {
  threads::Pool pool(2);
  families::Gate gate = gate_of(2, 2);
  fit_gate(two_kinds(200, false, 1), {}, pool, gate);
  const GateScore score = score_gate(gate, two_kinds(100, false, 2), false);
  EXPECT_GE(score.right, 0.98);
  EXPECT_NEAR(score.alone[0], 2.5, 1e-6);
  EXPECT_NEAR(score.uniform, -std::log((std::exp(-1) + std::exp(-4)) / 2), 1e-6);
  // The best there is, is 1.
  EXPECT_LT(score.gated, 1.1);
  EXPECT_LT(score.gated, score.uniform - 0.4);
}

// A model that is as good everywhere as another gets no less than it.
TEST(EnsembleFit, ModelsThatAreAlikeStayAlike) {
  threads::Pool pool(1);
  GateSamples samples = two_kinds(50, false, 1);
  for (float& p : samples.log_p) p = -2;
  families::Gate gate = gate_of(2, 2);
  fit_gate(samples, {}, pool, gate);
  const GateScore score = score_gate(gate, samples, false);
  EXPECT_NEAR(score.weights[0], 0.5, 1e-9);
  EXPECT_NEAR(score.gated, 2, 1e-6);
}

TEST(EnsembleFit, AnyNumberOfThreadsGivesTheSameBits) {
  const GateSamples samples = two_kinds(77, false, 1);
  threads::Pool one(1), three(3);
  families::Gate a = gate_of(2, 2), b = gate_of(2, 2);
  fit_gate(samples, {.steps = 20}, one, a);
  fit_gate(samples, {.steps = 20}, three, b);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.bias, b.bias);
}

// One prompt for each model is enough to tell them apart, and says nothing certain of states between them.
TEST(EnsembleFit, OfOneSampleEachIsSureOfThemAndNotOfTheMiddle) {
  threads::Pool pool(1);
  GateSamples samples{.width = 4,
                      .models = 2,
                      .x = {1, 1, 0, 2, 1, -1, 0, 2},
                      .log_p = {0, kNever, kNever, 0},
                      .weight = {1, 1},
                      .tokens = {1, 1}};
  families::Gate gate = gate_of(2, 2);
  fit_gate(samples, {}, pool, gate);
  EXPECT_EQ(score_gate(gate, samples, true).right, 1);
  const double middle[] = {1, 0, 0, 2}, first[] = {1, 1, 0, 2}, elsewhere[] = {1, 0, 3, 2};
  EXPECT_NEAR(gate_weights(gate, middle)[0], 0.5, 1e-6);
  EXPECT_GT(gate_weights(gate, first)[0], 0.9);
  EXPECT_NEAR(gate_weights(gate, elsewhere)[0], 0.5, 1e-6);
}

TEST(GateWeights, KeepTheTopKAndDivideByTheTemperature) {
  families::Gate gate = gate_of(3, 2);
  gate.rows = {{1, 0}, {0, 1}, {0, 0}};
  gate.bias = {0, 0, 1};
  gate.temperature = 2;
  const double x[] = {3, 2};
  const std::vector<double> weights = gate_weights(gate, x);
  EXPECT_NEAR(weights[0], 1 / (1 + std::exp(-0.5)), 1e-12);
  EXPECT_NEAR(weights[1], 1 / (1 + std::exp(0.5)), 1e-12);
  EXPECT_EQ(weights[2], 0);
  EXPECT_GT(gate_weights(gate, x, true)[2], 0);
  gate.top_k = 1;
  const double same[] = {1, 1};
  EXPECT_EQ(gate_weights(gate, same), (std::vector<double>{1, 0, 0}));
}

}  // namespace
}  // namespace coterie::surgery
