#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/rng.h"
#include "unit/runtime/distribution.h"

namespace coterie::runtime {
namespace {

using test::chi_square;
using test::chi_square_limit;
using test::Distribution;
using test::only;
using test::softmax_of;

constexpr int64_t kDraws = 200000;

std::vector<float> test_logits() {
  base::Rng rng(11);
  std::vector<float> logits(24);
  for (float& logit : logits) logit = 1.2f * rng.normal();
  return logits;
}

std::map<TokenId, int64_t> draw_many(const SamplerOptions& options, std::span<const float> logits) {
  Sampler sampler(options, static_cast<int64_t>(logits.size()));
  std::map<TokenId, int64_t> drawn;
  const std::vector<TokenId> text(static_cast<size_t>(kDraws));  // each position has its own random numbers
  for (size_t i = 0; i < text.size(); ++i) ++drawn[sampler.sample(logits, std::span(text).first(i))];
  return drawn;
}

// The definitions again, independent of the implementation: sort everything, add up, keep.
std::vector<std::pair<TokenId, double>> best_first(const Distribution& all) {
  std::vector<std::pair<TokenId, double>> order(all.begin(), all.end());
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  return order;
}
Distribution keep_k(const Distribution& all, size_t k) {
  std::vector<TokenId> kept;
  for (const auto& [id, p] : best_first(all))
    if (kept.size() < k) kept.push_back(id);
  return only(all, kept);
}
Distribution keep_p(const Distribution& all, double p) {
  std::vector<TokenId> kept;
  double sum = 0;
  for (const auto& [id, probability] : best_first(all)) {
    if (sum >= p) break;
    kept.push_back(id), sum += probability;
  }
  return only(all, kept);
}
Distribution keep_min(const Distribution& all, double share) {
  std::vector<TokenId> kept;
  for (const auto& [id, p] : all)
    if (p >= share * best_first(all).front().second) kept.push_back(id);
  return only(all, kept);
}
Distribution keep_typical(const Distribution& all, double mass) {
  double entropy = 0;
  for (const auto& [id, p] : all) entropy -= p * std::log(p);
  std::vector<std::pair<double, TokenId>> order;
  for (const auto& [id, p] : all) order.push_back({std::abs(-std::log(p) - entropy), id});
  std::sort(order.begin(), order.end());
  std::vector<TokenId> kept;
  double sum = 0;
  for (const auto& [distance, id] : order) {
    if (sum >= mass) break;
    kept.push_back(id), sum += all.at(id);
  }
  return only(all, kept);
}

struct Case {
  std::string name;
  SamplerOptions options;
  Distribution expected;
};

std::vector<Case> cases() {
  const std::vector<float> logits = test_logits();
  const Distribution all = softmax_of(logits);
  std::vector<Case> out;
  const auto add = [&](std::string name, auto set, Distribution expected) {
    SamplerOptions options;
    options.seed = 1234;
    set(options);
    out.push_back({std::move(name), options, std::move(expected)});
  };
  using Options = SamplerOptions;
  add(
      "plain", [](Options&) {}, all);
  add(
      "temperature_cold", [](Options& o) { o.temperature = 0.5; }, softmax_of(logits, 0.5));
  add(
      "temperature_hot", [](Options& o) { o.temperature = 2; }, softmax_of(logits, 2));
  add(
      "top_k", [](Options& o) { o.top_k = 5; }, keep_k(all, 5));
  add(
      "top_p", [](Options& o) { o.top_p = 0.7; }, keep_p(all, 0.7));
  add(
      "min_p", [](Options& o) { o.min_p = 0.1; }, keep_min(all, 0.1));
  add(
      "typical", [](Options& o) { o.typical = 0.6; }, keep_typical(all, 0.6));
  add(
      "chain", [](Options& o) { o.temperature = 1.5, o.top_k = 15, o.top_p = 0.9, o.min_p = 0.15, o.typical = 0.9; },
      keep_typical(keep_min(keep_p(keep_k(softmax_of(logits, 1.5), 15), 0.9), 0.15), 0.9));
  return out;
}

class SamplerDistribution : public testing::TestWithParam<Case> {};

TEST_P(SamplerDistribution, DrawsFollowTheDefinition) {
  const Case& c = GetParam();
  const std::vector<float> logits = test_logits();
  const auto drawn = draw_many(c.options, logits);
  EXPECT_LT(chi_square(drawn, c.expected, kDraws), chi_square_limit(static_cast<double>(c.expected.size() - 1)));
  Sampler sampler(c.options, 24);
  const Distribution exact = test::as_map(sampler.distribution(logits, {}));
  ASSERT_EQ(exact.size(), c.expected.size());
  for (const auto& [id, p] : c.expected) EXPECT_NEAR(exact.at(id), p, 1e-9);
}

INSTANTIATE_TEST_SUITE_P(Each, SamplerDistribution, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

TEST(Sampler, TheChiSquareTestCanFail) {
  const std::vector<float> logits = test_logits();
  SamplerOptions options;
  options.temperature = 0.97;
  const auto drawn = draw_many(options, logits);
  EXPECT_GT(chi_square(drawn, softmax_of(logits), kDraws), chi_square_limit(23));
}

TEST(Sampler, PenaltiesLookAtTheLastN) {
  std::vector<float> logits = test_logits();
  const std::vector<TokenId> tokens = {9, 7, 3, 3, 5};
  SamplerOptions options;
  options.repeat_penalty = 1.3, options.presence_penalty = 0.4, options.frequency_penalty = 0.2;
  options.repeat_last_n = 3;
  for (const auto& [id, times] : std::map<int, int>{{3, 2}, {5, 1}}) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / 1.3f : logit * 1.3f;
    logit -= 0.4f + 0.2f * static_cast<float>(times);
  }
  Sampler sampler(options, 24);
  const Distribution found = test::as_map(sampler.distribution(test_logits(), tokens));
  for (const auto& [id, p] : softmax_of(logits)) EXPECT_NEAR(found.at(id), p, 1e-6) << id;

  options.repeat_last_n = 0;
  Sampler off(options, 24);
  EXPECT_DOUBLE_EQ(test::as_map(off.distribution(test_logits(), tokens)).at(3), softmax_of(test_logits()).at(3));
  options.repeat_last_n = -1;
  Sampler all(options, 24);
  EXPECT_NE(all.distribution(test_logits(), tokens)[9].logit, test_logits()[9]);
}

TEST(Sampler, BiasForbidsAndForces) {
  SamplerOptions options;
  options.logit_bias = {{4, 100.0f}};
  for (const auto& [id, count] : draw_many(options, test_logits())) EXPECT_EQ(id, 4);
  options.logit_bias = {{4, -std::numeric_limits<float>::infinity()}};
  EXPECT_FALSE(draw_many(options, test_logits()).contains(4));
}

TEST(Sampler, GreedyComesAfterThePenalties) {
  const std::vector<float> logits = {1.0f, 3.0f, 2.9f};
  SamplerOptions options;
  options.temperature = 0, options.repeat_penalty = 1.5;
  Sampler sampler(options, 3);
  EXPECT_EQ(sampler.sample(logits, {}), 1);
  EXPECT_EQ(sampler.sample(logits, std::vector<TokenId>{1}), 2);
}

TEST(Sampler, TheSeedDecides) {
  const std::vector<float> logits = test_logits();
  const auto sequence = [&](uint64_t seed) {
    SamplerOptions options;
    options.seed = seed;
    Sampler sampler(options, 24);
    std::vector<TokenId> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(sampler.sample(logits, ids));
    return ids;
  };
  EXPECT_EQ(sequence(5), sequence(5));
  EXPECT_NE(sequence(5), sequence(6));
}

TEST(Sampler, ADrawDependsOnNothingThatWasDrawnBefore) {
  const std::vector<float> logits = test_logits();
  SamplerOptions options;
  options.seed = 5, options.xtc_probability = 0.5, options.xtc_threshold = 0.05;
  const std::vector<TokenId> text(40, 3);
  Sampler all(options, 24);
  for (size_t i = 0; i < text.size(); ++i) {
    const TokenId drawn = all.sample(logits, std::span(text).first(i));
    EXPECT_EQ(Sampler(options, 24).sample(logits, std::span(text).first(i)), drawn) << i;
  }
}

// What a draft of a model that thinks nearly alike lives by: independent draws would agree in Σ p q of all cases, and
// the best that any two can do is Σ min(p, q).
TEST(Sampler, DistributionsThatAreAlikeDrawAlike) {
  std::vector<float> logits = test_logits(), other = logits;
  base::Rng rng(3);
  for (float& logit : other) logit += 0.3f * rng.normal();
  SamplerOptions options;
  options.seed = 8;
  options.top_k = 24;  // in the order of the logits, which differs
  Sampler one(options, 24), two(options, 24);
  const std::vector<TokenId> text(20000);
  int64_t same = 0;
  for (size_t i = 0; i < text.size(); ++i)
    same += one.sample(logits, std::span(text).first(i)) == two.sample(other, std::span(text).first(i));
  double independent = 0, most = 0;
  const Distribution p = softmax_of(logits), q = softmax_of(other);
  for (const auto& [id, probability] : p)
    independent += probability * q.at(id), most += std::min(probability, q.at(id));
  const double agreed = static_cast<double>(same) / static_cast<double>(text.size());
  EXPECT_LT(independent, 0.3);
  EXPECT_GT(agreed, 0.9 * most);
  EXPECT_LT(agreed, most + 0.02);
}

TEST(Sampler, RefusesWhatIsOutOfRangeByName) {
  using Options = SamplerOptions;
  const auto refused = [](const std::string& field, auto set) {
    SamplerOptions options;
    set(options);
    try {
      Sampler sampler(options, 24);
      ADD_FAILURE() << field << " was accepted";
    } catch (const base::Error& error) {
      EXPECT_EQ(error.kind(), base::ErrorKind::bad_input);
      EXPECT_EQ(error.where(), field);
    }
  };
  refused("temperature", [](Options& o) { o.temperature = -1; });
  refused("temperature", [](Options& o) { o.temperature = NAN; });
  refused("top_k", [](Options& o) { o.top_k = -1; });
  refused("top_p", [](Options& o) { o.top_p = 0; });
  refused("top_p", [](Options& o) { o.top_p = 1.1; });
  refused("min_p", [](Options& o) { o.min_p = 1.1; });
  refused("typical", [](Options& o) { o.typical = 0; });
  refused("repeat_penalty", [](Options& o) { o.repeat_penalty = 0; });
  refused("repeat_last_n", [](Options& o) { o.repeat_last_n = -2; });
  refused("presence_penalty", [](Options& o) { o.presence_penalty = NAN; });
  refused("frequency_penalty", [](Options& o) { o.frequency_penalty = INFINITY; });
  refused("logit_bias", [](Options& o) { o.logit_bias = {{24, 1.0f}}; });
  refused("logit_bias", [](Options& o) { o.logit_bias = {{-1, 1.0f}}; });
  refused("logit_bias", [](Options& o) { o.logit_bias = {{1, NAN}}; });
}

}  // namespace
}  // namespace coterie::runtime
