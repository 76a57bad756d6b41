#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/rng.h"
#include "layers/moe/choose.h"
#include "router_reference.h"

namespace coterie::layers {
namespace {

using Order = RouterSpec::Order;
using Score = RouterSpec::Score;
using GroupScore = RouterSpec::GroupScore;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Choice choose_one(const RouterSpec& spec, const std::vector<float>& logits, const std::vector<float>& bias = {}) {
  check(spec, "test");
  Choice choice{std::vector<int32_t>(static_cast<size_t>(spec.experts_per_token), -1),
                std::vector<float>(static_cast<size_t>(spec.experts_per_token), kNan)};
  std::vector<double> scratch(static_cast<size_t>(choose_scratch(spec)));
  choose({spec, logits.data(), spec.selection_bias ? bias.data() : nullptr, {}, scratch}, choice.ids.data(),
         choice.weights.data());
  return choice;
}

void expect_definition(const RouterSpec& spec, const std::vector<float>& logits, const std::vector<float>& bias) {
  const Choice found = choose_one(spec, logits, bias);
  const reference::Choice expected = reference::choose(spec, logits, bias);
  ASSERT_EQ(found.ids, expected.ids) << spec.experts << " experts, k " << spec.experts_per_token << ", groups "
                                     << spec.groups << ", order " << static_cast<int>(spec.order) << ", score "
                                     << static_cast<int>(spec.score) << ", bias " << spec.selection_bias;
  for (size_t i = 0; i < found.weights.size(); ++i)
    ASSERT_NEAR(found.weights[i], expected.weights[i], 1e-6 * std::max(1.0, std::abs(expected.weights[i])));
}

// Logits as routers make them, then tiny scores (sigmoid and sqrt-softplus of -18: 1e-8 and 1e-4), each with biases
// that are small, and biases of 12 that differ by nothing or by a bit.
void try_inputs(const RouterSpec& spec, base::Rng& rng) {
  const auto e = static_cast<size_t>(spec.experts);
  for (const float level : {0.0f, -18.0f}) {
    for (int biases = 0; biases < (spec.selection_bias ? 4 : 1); ++biases) {
      std::vector<float> logits(e), bias(e, 12.0f);
      for (float& v : logits) v = level + 2 * rng.normal();
      for (float& v : bias) {
        if (biases == 1) v = 0.3f * rng.normal();
        if (biases == 2) v += 0x1p-20f * static_cast<float>(rng.below(3));
        if (biases == 3) v = rng.below(2) ? 12.0f : -12.0f;
      }
      expect_definition(spec, logits, bias);
    }
  }
}

TEST(Router, EveryCombinationEqualsItsDefinition) {
  struct Groups {
    int64_t experts, groups, kept;
  };
  base::Rng rng(1);
  int64_t tried = 0;
  for (const auto score : {Score::softmax, Score::sigmoid, Score::sqrt_softplus})
    for (const auto order : {Order::score_then_select, Order::select_then_score})
      for (const bool renormalise : {false, true})
        for (const bool bias : {false, true})
          for (const float scale : {1.0f, 2.5f, 0.1f})
            for (const Groups& g : {Groups{1, 1, 1},
                                    {2, 1, 1},
                                    {7, 1, 1},
                                    {64, 1, 1},
                                    {300, 1, 1},
                                    {16, 4, 2},
                                    {16, 8, 3},
                                    {64, 8, 4},
                                    {64, 8, 1},
                                    {64, 8, 8},
                                    {256, 8, 4},
                                    {160, 8, 3}})
              for (const auto group_score : {GroupScore::best, GroupScore::best_two})
                for (const int64_t k : {int64_t{1}, int64_t{2}, int64_t{3}, int64_t{8}, g.experts}) {
                  if (k > g.kept * (g.experts / g.groups) || (g.groups == 1 && group_score == GroupScore::best_two))
                    continue;
                  RouterSpec spec{.experts = g.experts, .experts_per_token = k, .score = score, .order = order};
                  spec.renormalise = renormalise, spec.scale = scale, spec.selection_bias = bias;
                  spec.groups = g.groups, spec.groups_kept = g.kept, spec.group_score = group_score;
                  for (int round = 0; round < 2; ++round) try_inputs(spec, rng);
                  ASSERT_FALSE(HasFatalFailure());
                  ++tried;
                }
  EXPECT_GT(tried, 4000);
}

TEST(Router, SparseMixerEqualsItsDefinition) {
  base::Rng rng(2);
  for (const int64_t experts : {1, 2, 16, 100})
    for (const int64_t k : {1, 2, 3})
      for (const float near_best : {0.0f, 0.01f, 0.3f})
        for (const float spread : {0.01f, 1.0f, 5.0f})
          for (const float level : {0.0f, 4.0f, -4.0f}) {  // the best logit above and below zero
            if (k > experts) continue;
            RouterSpec spec{.experts = experts, .experts_per_token = k};
            spec.selection = RouterSpec::Selection::sparsemixer, spec.near_best = near_best;
            for (int round = 0; round < 10; ++round) {
              std::vector<float> logits(static_cast<size_t>(experts));
              for (float& v : logits) v = level + spread * rng.normal();
              expect_definition(spec, logits, {});
            }
          }
}

// Worked by hand from modeling_phimoe.py: 2 and 1.99 are near (0.005 < 0.02), so both weights are shared out among
// those that are near, each time without the earlier choice.
TEST(Router, SparseMixerByHand) {
  RouterSpec spec{.experts = 4, .experts_per_token = 2};
  spec.selection = RouterSpec::Selection::sparsemixer;
  const Choice near = choose_one(spec, {1, 2, 1.99f, -3});
  EXPECT_EQ(near.ids, (std::vector<int32_t>{1, 2}));
  EXPECT_NEAR(near.weights[0], 1 / (1 + std::exp(-0.01)), 1e-6);
  EXPECT_EQ(near.weights[1], 1);
  const Choice ties = choose_one(spec, {0, 0, 0, 0});
  EXPECT_EQ(ties.ids, (std::vector<int32_t>{0, 1}));
  EXPECT_NEAR(ties.weights[0], 1.0 / 4, 1e-7);
  EXPECT_NEAR(ties.weights[1], 1.0 / 3, 1e-7);
}

TEST(Router, TiesGoToTheLowerIndex) {
  RouterSpec spec{.experts = 6, .experts_per_token = 3};
  EXPECT_EQ(choose_one(spec, {1, 2, 2, 1, 2, 2}).ids, (std::vector<int32_t>{1, 2, 4}));
  EXPECT_EQ(choose_one(spec, std::vector<float>(6, 0.0f)).ids, (std::vector<int32_t>{0, 1, 2}));
  // Groups too: all of them equal, then the second best of two shared by three.
  spec.groups = 3, spec.groups_kept = 2;
  for (const auto group_score : {GroupScore::best, GroupScore::best_two}) {
    spec.group_score = group_score;
    EXPECT_EQ(choose_one(spec, std::vector<float>(6, 0.0f)).ids, (std::vector<int32_t>{0, 1, 2}));
    EXPECT_EQ(choose_one(spec, {1, 1, 1, 1, 2, 2}).ids, (std::vector<int32_t>{4, 5, 0}));
  }
}

// The bias decides and is gone from the weights, however small the scores beside it.
TEST(Router, SelectionBiasNeverReachesTheWeights) {
  RouterSpec spec{.experts = 4, .experts_per_token = 2, .score = Score::sigmoid};
  spec.selection_bias = true;
  const float small = -18.420680f;  // sigmoid: 1e-8
  const Choice raw = choose_one(spec, {small, small + 1, small, small + 0.5f}, {12, 12, 12, 12});
  EXPECT_EQ(raw.ids, (std::vector<int32_t>{1, 3}));  // sums in f32 would all be 12
  EXPECT_NEAR(raw.weights[0] / 2.7182818e-8, 1, 1e-5);
  EXPECT_NEAR(raw.weights[1] / 1.6487213e-8, 1, 1e-5);
  spec.renormalise = true;
  const Choice shared = choose_one(spec, {small, 5, small, 7}, {12, -12, 12, -12});
  EXPECT_EQ(shared.ids, (std::vector<int32_t>{0, 2}));
  EXPECT_NEAR(shared.weights[0], 0.5, 1e-6);
}

TEST(Router, WeightsOfAllZerosRenormaliseToZero) {
  RouterSpec spec{.experts = 3, .experts_per_token = 2, .score = Score::sigmoid};
  spec.renormalise = true;
  for (const float w : choose_one(spec, {-500, -400, -300}).weights) EXPECT_EQ(w, 0);
}

TEST(Router, OneExpertRenormalisedWeighsOne) {
  RouterSpec spec{.experts = 4, .experts_per_token = 1};
  spec.renormalise = true;
  EXPECT_EQ(choose_one(spec, {0.1f, 0.3f, -2, 0}).weights[0], 1.0f);
}

TEST(Router, LogitsOfAnySizeGiveFiniteWeights) {
  RouterSpec spec{.experts = 4, .experts_per_token = 2};
  for (const auto score : {Score::softmax, Score::sigmoid, Score::sqrt_softplus})
    for (const bool renormalise : {false, true})
      for (const std::vector<float>& logits :
           {std::vector<float>{1e30f, -1e30f, 0, 3}, {-1e30f, -1e30f, -1e30f, -1e30f}, {100, 88.8f, -104, 60}}) {
        spec.score = score, spec.renormalise = renormalise;
        const Choice choice = choose_one(spec, logits);
        for (const float w : choice.weights) EXPECT_TRUE(std::isfinite(w));
        EXPECT_NE(choice.ids[0], choice.ids[1]);
      }
}

// Whatever the logits are, K different experts are named: a NaN or an infinity must not make the choice repeat one,
// leave one unset, or reach outside.
TEST(Router, AnyLogitsNameDifferentExperts) {
  base::Rng rng(5);
  const float odd[] = {kNan, kInf, -kInf, 0, 1};
  for (const auto order : {Order::score_then_select, Order::select_then_score})
    for (const auto selection :
         {RouterSpec::Selection::top_k, RouterSpec::Selection::sample, RouterSpec::Selection::sparsemixer})
      for (const int64_t groups : {1, 4})
        for (const auto group_score : {GroupScore::best, GroupScore::best_two})
          for (int round = 0; round < 200; ++round) {
            RouterSpec spec{.experts = 8, .experts_per_token = 3, .order = order};
            spec.selection = selection;
            spec.groups = groups, spec.groups_kept = groups == 1 ? 1 : 2, spec.group_score = group_score;
            spec.selection_bias = round % 2 == 0;
            if (selection == RouterSpec::Selection::sparsemixer) {
              if (groups > 1 || order != Order::score_then_select) continue;
              spec.selection_bias = false;
            }
            std::vector<float> logits(8), bias(8);
            for (float& v : logits) v = odd[rng.below(5)];
            for (float& v : bias) v = odd[rng.below(5)];
            std::vector<int32_t> ids = choose_one(spec, logits, bias).ids;
            std::sort(ids.begin(), ids.end());
            EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
            EXPECT_GE(ids.front(), 0);
            EXPECT_LT(ids.back(), 8);
          }
}

TEST(Router, NanLosesAndShowsWhereItIsRead) {
  RouterSpec spec{.experts = 4, .experts_per_token = 2, .score = Score::sigmoid};
  Choice choice = choose_one(spec, {kNan, -3, 1, kNan});
  EXPECT_EQ(choice.ids, (std::vector<int32_t>{2, 1}));
  for (const float w : choice.weights) EXPECT_TRUE(std::isfinite(w));
  choice = choose_one(spec, {kNan, -3, kNan, kNan});
  EXPECT_EQ(choice.ids, (std::vector<int32_t>{1, 0}));
  EXPECT_TRUE(std::isnan(choice.weights[1]));
  spec.score = Score::softmax;
  choice = choose_one(spec, {kNan, -3, 1, kNan});
  EXPECT_EQ(choice.ids, (std::vector<int32_t>{2, 1}));
  for (const float w : choice.weights) EXPECT_TRUE(std::isnan(w));
}

TEST(Router, SpecsThatCannotBeAreRefused) {
  const RouterSpec good{.experts = 8, .experts_per_token = 2};
  EXPECT_NO_THROW(check(good, "test"));
  for (const auto& change : std::initializer_list<void (*)(RouterSpec&)>{
           [](RouterSpec& s) { s.experts = 0; }, [](RouterSpec& s) { s.experts_per_token = 0; },
           [](RouterSpec& s) { s.experts_per_token = 9; }, [](RouterSpec& s) { s.temperature = 0; },
           [](RouterSpec& s) { s.temperature = kInf; }, [](RouterSpec& s) { s.scale = kNan; },
           [](RouterSpec& s) { s.groups = 0; }, [](RouterSpec& s) { s.groups = 3; },
           [](RouterSpec& s) { s.groups = 4, s.groups_kept = 0; },
           [](RouterSpec& s) { s.groups = 4, s.groups_kept = 5; },
           [](RouterSpec& s) { s.groups = 8; },  // 2 experts from 1 group of 1
           [](RouterSpec& s) { s.groups = 8, s.groups_kept = 4, s.group_score = GroupScore::best_two; },
           [](RouterSpec& s) { s.renormalise_epsilon = -1; }, [](RouterSpec& s) { s.near_best = kNan; },
           [](RouterSpec& s) { s.selection = RouterSpec::Selection::sparsemixer, s.renormalise = true; },
           [](RouterSpec& s) { s.selection = RouterSpec::Selection::sparsemixer, s.score = Score::sigmoid; }}) {
    RouterSpec spec = good;
    change(spec);
    EXPECT_THROW(check(spec, "test"), base::Error);
  }
}

}  // namespace
}  // namespace coterie::layers
