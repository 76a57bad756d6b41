#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "base/rng.h"
#include "layers/moe/balance.h"
#include "layers/moe/scores.h"
#include "layers/moe/selection_bias.h"
#include "layers/moe/weigh.h"

namespace coterie::layers {
namespace {

using Balance = RouterLossSpec::Balance;
using Scope = RouterLossSpec::Scope;
using Score = RouterSpec::Score;
constexpr int64_t kExperts = 8;

std::vector<float> draw(int64_t n, uint64_t key, float size) {
  base::Rng rng(key);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = size * rng.normal();
  return values;
}

/// What a noisy top-2 router saw in two sequences. The normal draws are fixed, so that differences can be taken.
struct Seen {
  static constexpr int64_t kTokens = 7, kChosen = 2;
  std::vector<float> logits = draw(kTokens * kExperts, 3, 1), noise = draw(kTokens * kExperts, 4, 0.5f);
  std::vector<float> normals = draw(kTokens * kExperts, 5, 1), noisy = logits;
  std::vector<int32_t> ids;
  ops::RoutingPlan plan;
  std::vector<SequenceRows> sequences = {{.first_row = 0, .rows = 3}, {.first_row = 3, .rows = 4}};

  Seen() { look(); }
  /// Everything from the logits and the noise.
  void look() {
    std::vector<float> weights;
    std::vector<double> scratch(2 * kExperts);
    RouterSpec spec{.experts = kExperts, .experts_per_token = kChosen};
    spec.order = RouterSpec::Order::select_then_score;
    ids.clear();
    for (size_t i = 0; i < noisy.size(); ++i)
      noisy[i] = logits[i] + normals[i] * static_cast<float>(softplus(static_cast<double>(noise[i])));
    for (int64_t t = 0; t < kTokens; ++t) {
      std::vector<int32_t> order(kExperts);
      for (int32_t e = 0; e < kExperts; ++e) order[static_cast<size_t>(e)] = e;
      const float* const row = noisy.data() + t * kExperts;
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      order.resize(kChosen);
      float w[kChosen];
      weigh_scores({.spec = spec, .logits = row, .scratch = scratch}, order, w);
      ids.insert(ids.end(), order.begin(), order.end()), weights.insert(weights.end(), w, w + kChosen);
    }
    plan = ops::make_plan(ids, weights, kTokens, kChosen, kExperts);
  }
  tensor::ConstMatrix rows(const std::vector<float>& of, int64_t begin, int64_t end) const {
    return {of.data() + begin * kExperts, end - begin, kExperts};
  }
  Routed routed() const {
    return {.layer = 4,
            .plan = plan,
            .logits = rows(logits, 0, kTokens),
            .chosen = ids,
            .sequences = sequences,
            .noise = rows(noise, 0, kTokens),
            .noisy = rows(noisy, 0, kTokens)};
  }
};

class RouterLossGradient : public testing::TestWithParam<RouterLossSpec> {};

// By the logits and by the noise's, through the weights, the noisy logits and directly.
TEST_P(RouterLossGradient, EqualsFiniteDifferences) {
  Seen seen;
  RouterLosses losses(GetParam());
  losses.routed(seen.routed());
  const int64_t n = Seen::kTokens;
  std::vector<float> by_logits(seen.logits.size()), by_noise(by_logits), by_noisy(by_logits);
  std::vector<float> by_weight(static_cast<size_t>(seen.plan.slots()));
  losses.add_gradient(seen.routed(), {.logits = {by_logits.data(), n, kExperts},
                                      .weights = by_weight.data(),
                                      .noise = {by_noise.data(), n, kExperts},
                                      .noisy = {by_noisy.data(), n, kExperts}});
  // The router's own backward pass: weights to noisy logits, those to logits and noise.
  RouterSpec spec{.experts = kExperts, .experts_per_token = Seen::kChosen};
  spec.order = RouterSpec::Order::select_then_score;
  for (int64_t t = 0; t < n; ++t) {
    double dweights[Seen::kChosen];
    const size_t first = static_cast<size_t>(t) * Seen::kChosen;
    for (size_t i = 0; i < Seen::kChosen; ++i)
      dweights[i] = static_cast<double>(by_weight[static_cast<size_t>(seen.plan.token_slot[first + i])]);
    weigh_scores_backward(spec, seen.noisy.data() + t * kExperts, {seen.ids.data() + first, Seen::kChosen}, dweights,
                          by_noisy.data() + t * kExperts);
  }
  for (size_t i = 0; i < by_noisy.size(); ++i) {
    by_logits[i] += by_noisy[i];
    by_noise[i] += by_noisy[i] * seen.normals[i] * static_cast<float>(sigmoid(static_cast<double>(seen.noise[i])));
  }
  const std::vector<int32_t> chosen = seen.ids;
  int compared = 0;
  const auto compare = [&](std::vector<float>& values, const std::vector<float>& gradient) {
    constexpr float kStep = 1.0f / 128;
    for (size_t i = 0; i < values.size(); ++i) {
      const float kept = values[i];
      bool same = true;
      const auto at = [&](float value) {
        values[i] = value;
        seen.look();
        same = same && seen.ids == chosen;
        RouterLosses again(GetParam());
        again.routed(seen.routed());
        return again.values().balance + again.values().z;
      };
      const double slope = (at(kept + kStep) - at(kept - kStep)) / (2 * static_cast<double>(kStep));
      values[i] = kept;
      seen.look();
      if (!same) continue;
      ++compared;
      EXPECT_NEAR(static_cast<double>(gradient[i]), slope, 3e-4) << i;
    }
  };
  compare(seen.logits, by_logits), compare(seen.noise, by_noise);
  EXPECT_GT(compared, 90);
}

INSTANTIATE_TEST_SUITE_P(Kinds, RouterLossGradient,
                         testing::Values(RouterLossSpec{Balance::all_choices, 1, 0, Score::softmax},
                                         RouterLossSpec{Balance::all_choices, 1, 0, Score::sigmoid},
                                         RouterLossSpec{Balance::all_choices, 1, 0, Score::sqrt_softplus},
                                         RouterLossSpec{Balance::first_choice, 1, 0, Score::softmax},
                                         RouterLossSpec{Balance::none, 1, 0.3, Score::softmax},
                                         RouterLossSpec{Balance::all_choices, 0.5, 0.3, Score::softmax},
                                         RouterLossSpec{Balance::all_choices, 1, 0.1, Score::softmax, Scope::sequence},
                                         RouterLossSpec{Balance::all_choices, 1, 0.1, Score::softmax, Scope::batch},
                                         RouterLossSpec{Balance::importance, 0.5, 0, Score::softmax},
                                         RouterLossSpec{Balance::importance_and_load, 0.5, 0, Score::softmax},
                                         RouterLossSpec{Balance::importance_and_load, 0.5, 0.1, Score::softmax,
                                                        Scope::sequence}),
                         [](const auto& of) { return std::to_string(of.index); });

// Shazeer et al.'s definitions again, in f64, token by token and expert by expert.
TEST(RouterLosses, ImportanceAndLoadEqualTheirDefinitions) {
  const Seen seen;
  RouterLosses losses({Balance::importance_and_load, 1, 0, Score::softmax});
  losses.routed(seen.routed());
  std::vector<double> importance(kExperts), load(kExperts);
  for (int64_t t = 0; t < Seen::kTokens; ++t) {
    const float* const noisy = seen.noisy.data() + t * kExperts;
    double sum = 0;
    for (size_t i = 0; i < Seen::kChosen; ++i)
      sum += std::exp(static_cast<double>(noisy[seen.ids[static_cast<size_t>(t) * Seen::kChosen + i]]));
    for (size_t i = 0; i < Seen::kChosen; ++i) {
      const auto id = static_cast<size_t>(seen.ids[static_cast<size_t>(t) * Seen::kChosen + i]);
      importance[id] += std::exp(static_cast<double>(noisy[id])) / sum;
    }
    for (size_t e = 0; e < kExperts; ++e) {
      std::vector<float> others;  // the K-th largest of which has to be beaten
      for (size_t other = 0; other < kExperts; ++other)
        if (other != e) others.push_back(noisy[other]);
      std::sort(others.rbegin(), others.rend());
      const size_t at = static_cast<size_t>(t) * kExperts + e;
      const double z = static_cast<double>(seen.logits[at] - others[Seen::kChosen - 1]) /
                       std::log(1 + std::exp(static_cast<double>(seen.noise[at])));
      load[e] += 0.5 * (1 + std::erf(z / std::sqrt(2.0)));
    }
  }
  const auto squared_variation = [](const std::vector<double>& v) {
    double mean = 0, variance = 0;
    for (const double x : v) mean += x / kExperts;
    for (const double x : v) variance += (x - mean) * (x - mean) / kExperts;
    return variance / (mean * mean);
  };
  EXPECT_NEAR(losses.values().balance, squared_variation(importance) + squared_variation(load), 1e-5);
}

TEST(RouterLosses, AnEvenRouterHasBalanceOneAndACollapsedOneAsManyAsExperts) {
  constexpr int64_t kTokens = 8;
  std::vector<float> flat(kTokens * kExperts, 0.0f), peaked(flat);
  std::vector<int32_t> spread, same;
  for (int64_t t = 0; t < kTokens; ++t) {
    spread.insert(spread.end(), {static_cast<int32_t>(t), static_cast<int32_t>((t + 1) % kExperts)});
    same.insert(same.end(), {3, 4});
    peaked[static_cast<size_t>(t * kExperts + 3)] = 50;
  }
  const std::vector<float> weights(spread.size(), 0.5f);
  const auto values = [&](const RouterLossSpec& spec, const std::vector<int32_t>& ids,
                          const std::vector<float>& logits) {
    RouterLosses losses(spec);
    const ops::RoutingPlan plan = ops::make_plan(ids, weights, kTokens, 2, kExperts);
    losses.routed(
        {.layer = 0, .plan = plan, .logits = {logits.data(), kTokens, kExperts}, .chosen = ids, .sequences = {}});
    return losses.values();
  };
  const RouterLossSpec all{Balance::all_choices, 1, 0.001, Score::softmax};
  EXPECT_NEAR(values(all, spread, flat).balance, 1, 1e-12);
  EXPECT_NEAR(values(all, spread, flat).z, 0.001 * std::pow(std::log(8.0), 2), 1e-12);
  EXPECT_NEAR(values({Balance::first_choice, 1, 0, Score::softmax}, same, peaked).balance, kExperts, 1e-9);
  EXPECT_NEAR(values({Balance::importance, 1, 0, Score::softmax}, spread, flat).balance, 0, 1e-9);
}

// The steps of a batch: of scope batch when all was listened to, of scope sequence by their share of the sequences.
TEST(RouterLosses, MicroBatchesAddUpToOneBatch) {
  for (const Scope scope : {Scope::batch, Scope::sequence}) {
    const Seen seen;
    const RouterLossSpec spec{Balance::all_choices, 1, scope == Scope::batch ? 0.1 : 0, Score::softmax, scope};
    const auto part = [&](int64_t begin, int64_t end, auto use) {
      const std::vector<int32_t> ids(seen.ids.begin() + begin * Seen::kChosen, seen.ids.begin() + end * Seen::kChosen);
      const ops::RoutingPlan plan =
          ops::make_plan(ids, std::vector<float>(ids.size(), 0.5f), end - begin, Seen::kChosen, kExperts);
      const std::vector<SequenceRows> one = {{.first_row = 0, .rows = end - begin}};
      use(Routed{
          .layer = 4, .plan = plan, .logits = seen.rows(seen.logits, begin, end), .chosen = ids, .sequences = one});
    };
    RouterLosses whole(spec), parts(spec);
    whole.routed(seen.routed());
    for (const SequenceRows& s : seen.sequences)
      part(s.first_row, s.first_row + s.rows, [&](const Routed& r) { parts.routed(r); });
    EXPECT_NEAR(whole.values().balance, parts.values().balance, 1e-12);
    std::vector<float> expected(seen.logits.size()), found(expected);
    whole.add_gradient(seen.routed(), {.logits = {expected.data(), Seen::kTokens, kExperts}});
    parts.set_share(0.5);
    for (const SequenceRows& s : seen.sequences)
      part(s.first_row, s.first_row + s.rows, [&](const Routed& r) {
        parts.add_gradient(r, {.logits = {found.data() + s.first_row * kExperts, s.rows, kExperts}});
      });
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-7);
  }
}

TEST(RouterLosses, RefuseWhatCannotTeachTheRouter) {
  const auto refused = [](const RouterSpec& spec, const RouterLossSpec& loss) {
    try {
      check_trainable(spec, loss, "recipe");
    } catch (const base::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const RouterLossSpec none, balance{Balance::all_choices}, load{Balance::importance_and_load};
  RouterSpec one{.experts = 4, .experts_per_token = 1};
  EXPECT_EQ(refused(one, none), "");  // Switch: the weight is the expert's probability among all
  RouterSpec normed = one, late = one, sum = one, noisy = one;
  normed.renormalise = true, late.order = RouterSpec::Order::select_then_score;
  sum.combine = RouterSpec::Combine::sum, noisy.noise = true;
  EXPECT_NE(refused(normed, none).find("divided by its own sum"), std::string::npos);
  EXPECT_NE(refused(late, none).find("softmax over the chosen is 1"), std::string::npos);
  EXPECT_NE(refused(sum, none).find("no weights"), std::string::npos);
  EXPECT_NE(refused(one, load).find("noise"), std::string::npos);
  EXPECT_EQ(refused(noisy, load), "");
  RouterSpec soft = one;
  soft.selection = RouterSpec::Selection::soft;
  RouterLossSpec z;
  z.z_coefficient = 0.001;
  EXPECT_NE(refused(soft, z).find("no logits"), std::string::npos);
  EXPECT_EQ(refused(soft, none), "");
  for (RouterSpec spec : {normed, late, sum}) {
    // Loads kept even do not teach a router which expert is good.
    EXPECT_EQ(refused(spec, balance) == "", spec.combine == RouterSpec::Combine::sum);
    spec.experts_per_token = 2;
    EXPECT_EQ(refused(spec, none) == "", spec.combine == RouterSpec::Combine::weighted);
    EXPECT_NO_THROW(check(spec, "model"));  // runs
  }
  late.score = Score::sigmoid;
  EXPECT_EQ(refused(late, none), "");
}

// Wang et al. 2024: by a step in the direction of the load's sign, in any unit, and with mean zero.
TEST(SelectionBias, MovesByTheSignOfTheLoadAndDoesNotDrift) {
  std::vector<float> bias(4), by_share(4);
  const std::vector<double> loads = {10, 2, 3, 1}, shares = {0.625, 0.125, 0.1875, 0.0625};
  for (int i = 0; i < 100; ++i)
    update_selection_bias(bias, loads, 0.001), update_selection_bias(by_share, shares, 0.001);
  EXPECT_EQ(bias, by_share);
  EXPECT_NEAR(bias[0], -0.15, 1e-5);  // signs -1, 1, 1, 1 less their mean of 1/2
  EXPECT_NEAR(bias[1], 0.05, 1e-5);
  EXPECT_NEAR(bias[0] + bias[1] + bias[2] + bias[3], 0, 1e-6);
  std::vector<float> even(4);
  update_selection_bias(even, std::vector<double>(4, 5.0), 0.001);
  EXPECT_EQ(even, std::vector<float>(4));
}

}  // namespace
}  // namespace coterie::layers
