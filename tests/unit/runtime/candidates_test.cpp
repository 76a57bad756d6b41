#include "runtime/candidates.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "base/rng.h"
#include "unit/runtime/distribution.h"

namespace coterie::runtime {
namespace {

// What top_k and softmax make of logits.
Candidates candidates_of(std::span<const float> logits, double temperature = 1, int64_t k = 0) {
  Candidates candidates = top_k(logits, k);
  softmax(candidates, temperature);
  return candidates;
}

using test::as_map;
using test::Distribution;
using test::only;
using test::softmax_of;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const std::vector<float> kLogits = {0.5f, 2.0f, -1.0f, 1.5f, 0.0f, 2.0f, -3.0f, 1.0f};

void expect_equal(const Candidates& candidates, const Distribution& expected) {
  const Distribution found = as_map(candidates);
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [id, p] : expected) {
    ASSERT_TRUE(found.contains(id)) << id;
    EXPECT_NEAR(found.at(id), p, 1e-12) << id;
  }
}

TEST(Candidates, SoftmaxIsTheDefinition) {
  for (const double temperature : {0.3, 1.0, 4.0})
    expect_equal(candidates_of(kLogits, temperature), softmax_of(kLogits, temperature));
}

TEST(Candidates, SoftmaxStandsLargeLogits) {
  const std::vector<float> logits = {1e30f, 1e30f, -1e30f};
  expect_equal(candidates_of(logits, 0.01), {{0, 0.5}, {1, 0.5}, {2, 0.0}});
}

TEST(Candidates, SoftmaxLeavesOutTheForbidden) {
  const std::vector<float> logits = {-kInfinity, 1.0f, 1.0f};
  expect_equal(candidates_of(logits), {{1, 0.5}, {2, 0.5}});
}

TEST(Candidates, GreedyTakesTheLowestOfEquals) { EXPECT_EQ(greedy(kLogits), 1); }

TEST(Candidates, LogitsThatAreNoNumbersAreAnError) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& logits :
       {std::vector<float>{1.0f, nan, 2.0f}, {nan, 0.0f}, {-kInfinity, -kInfinity}, {kInfinity, 0.0f}}) {
    EXPECT_THROW(greedy(logits), base::Error);
    EXPECT_THROW(top_k(logits, 1), base::Error);
  }
}

TEST(Candidates, TopKKeepsTheBestAndTheLowerIdOfEquals) {
  const Distribution all = softmax_of(kLogits);
  expect_equal(candidates_of(kLogits, 1, 1), only(all, {1}));
  expect_equal(candidates_of(kLogits, 1, 4), only(all, {1, 5, 3, 7}));
  expect_equal(candidates_of(kLogits, 0.5, 2), {{1, 0.5}, {5, 0.5}});
  expect_equal(candidates_of(kLogits, 1, 100), all);
  const std::vector<float> equal(9, 1.0f);
  const Candidates first = top_k(equal, 3);
  for (TokenId id = 0; id < 3; ++id) EXPECT_EQ(first[static_cast<size_t>(id)].id, id) << "best first";
  const std::vector<float> forbidden = {-kInfinity, 1.0f, -kInfinity};
  EXPECT_EQ(top_k(forbidden, 2).size(), 1u);
}

// Probabilities 0.4, 0.3, 0.2, 0.1 exactly enough to choose sums between them.
Candidates simple() {
  std::vector<float> logits;
  for (const double p : {0.2, 0.4, 0.1, 0.3}) logits.push_back(static_cast<float>(std::log(p)));
  return candidates_of(logits);
}

TEST(Candidates, TopPKeepsTheFewestThatReachTheSum) {
  const Distribution all = as_map(simple());
  for (const auto& [p, kept] : std::vector<std::pair<double, std::vector<TokenId>>>{
           {1e-9, {1}}, {0.39, {1}}, {0.41, {1, 3}}, {0.69, {1, 3}}, {0.71, {1, 3, 0}}, {0.91, {1, 3, 0, 2}}}) {
    Candidates candidates = simple();
    top_p(candidates, p);
    expect_equal(candidates, only(all, kept));
  }
}

TEST(Candidates, TopPOfALargeVocabulary) {
  // Sorted in pieces inside; the result is that of a whole sort.
  base::Rng rng(3);
  std::vector<float> logits(5000);
  for (float& logit : logits) logit = 0.3f * rng.normal();
  const Distribution all = softmax_of(logits);
  std::vector<std::pair<double, TokenId>> order;
  for (const auto& [id, p] : all) order.push_back({-p, id});
  std::sort(order.begin(), order.end());
  std::vector<TokenId> kept;
  for (double sum = 0; sum < 0.8; kept.push_back(order[kept.size()].second)) sum -= order[kept.size()].first;
  Candidates candidates = candidates_of(logits);
  top_p(candidates, 0.8);
  EXPECT_GT(kept.size(), 1000u);
  expect_equal(candidates, only(all, kept));
}

TEST(Candidates, MinPIsAShareOfTheBest) {
  const Distribution all = as_map(simple());
  for (const auto& [share, kept] : std::vector<std::pair<double, std::vector<TokenId>>>{
           {0.24, {0, 1, 2, 3}}, {0.26, {0, 1, 3}}, {0.51, {1, 3}}, {0.76, {1}}, {1.0, {1}}}) {
    Candidates candidates = simple();
    min_p(candidates, share);
    expect_equal(candidates, only(all, kept));
  }
}

TEST(Candidates, TypicalOrdersByDistanceFromTheEntropy) {
  // H = 1.2799 nats; -log p: 0.4 → 0.916 (0.364 away), 0.3 → 1.204 (0.076), 0.2 → 1.609 (0.330), 0.1 → 2.303 (1.02).
  const Distribution all = as_map(simple());
  for (const auto& [mass, kept] : std::vector<std::pair<double, std::vector<TokenId>>>{
           {0.2, {3}}, {0.31, {3, 0}}, {0.51, {3, 0, 1}}, {0.91, {3, 0, 1, 2}}}) {
    Candidates candidates = simple();
    typical(candidates, mass);
    expect_equal(candidates, only(all, kept));
  }
}

TEST(Candidates, TypicalStandsZeroProbabilities) {
  const std::vector<float> logits = {0.0f, -5000.0f, 0.0f};
  Candidates candidates = candidates_of(logits);
  typical(candidates, 0.9);
  expect_equal(candidates, {{0, 0.5}, {2, 0.5}});
}

TEST(Candidates, RepetitionPenaltyDividesOrMultiplies) {
  std::vector<float> logits = {2.0f, -2.0f, 0.0f, 3.0f};
  const std::vector<TokenId> recent = {1, 0, 0, 2};
  penalise_repetition(logits, recent, 1.25);
  EXPECT_EQ(logits, (std::vector<float>{1.6f, -2.5f, 0.0f, 3.0f}));
}

TEST(Candidates, OccurrencePenaltiesCount) {
  std::vector<float> logits = {2.0f, -2.0f, 0.5f, 3.0f};
  const std::vector<TokenId> recent = {1, 0, 0, 0};
  penalise_occurrence(logits, recent, 0.5, 0.25);
  EXPECT_EQ(logits, (std::vector<float>{0.75f, -2.75f, 0.5f, 3.0f}));
}

TEST(Candidates, LogitBiasAdds) {
  std::vector<float> logits = {1.0f, 2.0f};
  const std::vector<std::pair<TokenId, float>> bias = {{1, -kInfinity}, {0, 0.5f}};
  add_logit_bias(logits, bias);
  EXPECT_EQ(logits, (std::vector<float>{1.5f, -kInfinity}));
}

}  // namespace
}  // namespace coterie::runtime
