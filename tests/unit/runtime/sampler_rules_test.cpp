// DRY, XTC, top-n-sigma, dynamic temperature and Mirostat beside their definitions, written down here once more.
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "base/error.h"
#include "base/rng.h"
#include "runtime/sampler.h"
#include "support/expect_error.h"
#include "unit/runtime/distribution.h"

namespace coterie::runtime {
namespace {

using base::ErrorKind;
using test::as_map;
using test::chi_square;
using test::chi_square_limit;
using test::Distribution;
using test::only;
using test::softmax_of;
using Ids = std::vector<TokenId>;
using Options = SamplerOptions;

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Tokens are the words in their order; a text is the words without anything between.
text::Tokenizer words(const std::vector<std::string>& tokens) {
  base::Json vocabulary;
  for (size_t i = 0; i < tokens.size(); ++i) vocabulary[tokens[i]] = i;
  const base::Json json = {{"version", "1.0"},
                           {"added_tokens", base::Json::array()},
                           {"decoder", {{"type", "Fuse"}}},
                           {"model", {{"type", "WordLevel"}, {"vocab", vocabulary}, {"unk_token", tokens[0]}}}};
  return text::Tokenizer::from_json(json.dump(), "words");
}

std::vector<float> spread_logits(int64_t vocabulary, uint64_t seed = 11) {
  base::Rng rng(seed);
  std::vector<float> logits(static_cast<size_t>(vocabulary));
  for (float& logit : logits) logit = 1.2f * rng.normal();
  return logits;
}

void expect_equal(const Candidates& candidates, const Distribution& expected, double tolerance = 1e-9) {
  const Distribution found = as_map(candidates);
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [id, p] : expected) {
    ASSERT_TRUE(found.contains(id)) << id;
    EXPECT_NEAR(found.at(id), p, tolerance) << id;
  }
}

// --- DRY -------------------------------------------------------------------------------------------------------------

// For each place before the end: how many tokens up to it are those that end the sequence; what follows would go on.
std::map<TokenId, int64_t> repeats_by_definition(const Ids& ids, int64_t limit) {
  std::map<TokenId, int64_t> longest;
  const int64_t size = std::ssize(ids);
  for (int64_t place = 0; place + 1 < size; ++place) {
    int64_t n = 0;
    while (n < limit && n <= place && ids[static_cast<size_t>(place - n)] == ids[static_cast<size_t>(size - 1 - n)])
      ++n;
    if (n == 0) continue;
    int64_t& most = longest[ids[static_cast<size_t>(place + 1)]];
    most = std::max(most, n);
  }
  return longest;
}

TEST(Dry, RepeatsAreThoseOfTheDefinition) {
  const Ids known = {0, 1, 2, 2, 1, 2, 9, 0, 1, 2};  // a b c c b c y a b c
  const std::unordered_map<TokenId, int64_t> found = repeats(known, 10);
  EXPECT_EQ(found, (std::unordered_map<TokenId, int64_t>{{2, 3}, {1, 1}, {9, 2}}));
  base::Rng rng(5);
  for (int round = 0; round < 3000; ++round) {
    Ids ids(rng.below(40));
    const uint32_t alphabet = 1 + rng.below(4);
    for (TokenId& id : ids) id = static_cast<TokenId>(rng.below(alphabet));
    const int64_t limit = rng.below(12);
    const auto lengths = repeats(ids, limit);
    const std::map<TokenId, int64_t> sorted(lengths.begin(), lengths.end());
    ASSERT_EQ(sorted, repeats_by_definition(ids, limit)) << round;
  }
}

Options dry_options() {
  Options options;
  options.dry_multiplier = 0.8, options.dry_base = 1.5, options.dry_allowed_length = 2;
  options.dry_penalty_last_n = -1;
  return options;
}

TEST(Dry, PenaltiesGrowWithTheLengthOfTheRepetition) {
  const Ids ids = {0, 1, 2, 2, 1, 2, 9, 0, 1, 2};
  Options options = dry_options();
  options.dry_sequence_breakers.clear();
  const auto expected = [](const std::map<TokenId, double>& penalties) {
    std::vector<float> logits = spread_logits(12);
    for (const auto& [id, penalty] : penalties) logits[static_cast<size_t>(id)] -= static_cast<float>(penalty);
    return softmax_of(logits);
  };
  const auto found = [&](const Options& of, std::span<const TokenId> tokens) {
    return Sampler(of, 12).distribution(spread_logits(12), tokens);
  };
  expect_equal(found(options, ids), expected({{2, 0.8 * 1.5}, {9, 0.8}}), 1e-6);
  options.dry_allowed_length = 1;
  expect_equal(found(options, ids), expected({{2, 0.8 * 1.5 * 1.5}, {9, 0.8 * 1.5}, {1, 0.8}}), 1e-6);
  options.dry_penalty_last_n = 5;  // c y a b c: what follows a c is y
  expect_equal(found(options, ids), expected({{9, 0.8}}), 1e-6);
  options.dry_penalty_last_n = 0;
  expect_equal(found(options, ids), softmax_of(spread_logits(12)));
  // A repetition so long that the power overflows forbids nothing for good.
  options.dry_penalty_last_n = -1, options.dry_base = 100;
  const Candidates far = found(options, Ids(2000, 3));
  EXPECT_EQ(as_map(far).at(3), 0);
  EXPECT_TRUE(std::isfinite(far[3].logit));
}

TEST(Dry, GreedyComesAfterIt) {
  Options options = dry_options();
  options.dry_sequence_breakers.clear();
  options.temperature = 0;
  const std::vector<float> logits = {1, 3, 2.9f, 0};
  const Ids ids = {0, 3, 1, 0, 3};
  EXPECT_EQ(Sampler(options, 4).sample(logits, Ids{}), 1);
  EXPECT_EQ(Sampler(options, 4).sample(logits, ids), 2);
}

TEST(Dry, NoRepetitionReachesAcrossABreaker) {
  //                                       0    1    2     3     4       5     6     7
  const text::Tokenizer tokenizer = words({"a", "b", "c", "\n", "x:y", "en", "d.", "<|user|>"});
  SequenceBreakers breakers({"\n", ":", "nd", "user"}, tokenizer);
  EXPECT_EQ(breakers.tokens_since(Ids{0, 1, 2}), 3);
  EXPECT_EQ(breakers.tokens_since(Ids{0, 1, 2, 3}), 0);
  EXPECT_EQ(breakers.tokens_since(Ids{0, 1, 2, 3, 0, 1}), 2);
  EXPECT_EQ(breakers.tokens_since(Ids{0, 4, 1}), 1) << "within a token";
  EXPECT_EQ(breakers.tokens_since(Ids{0, 5, 6, 1}), 1) << "over two tokens";
  EXPECT_EQ(breakers.tokens_since(Ids{0, 5, 1, 6}), 4) << "the two are not beside each other";
  EXPECT_EQ(breakers.tokens_since(Ids{7, 1}), 1);
  EXPECT_TRUE(breakers.contains(4) && breakers.contains(3) && !breakers.contains(5) && !breakers.contains(0));

  Options options = dry_options();
  options.dry_sequence_breakers = {"\n", ":"};
  options.dry_allowed_length = 1;
  const std::vector<float> logits = spread_logits(8);
  const auto penalised = [&](const Ids& ids) {
    std::map<TokenId, double> lost;
    for (const Candidate& candidate : Sampler(options, 8, &tokenizer).distribution(logits, ids))
      if (const float by = logits[static_cast<size_t>(candidate.id)] - candidate.logit; by != 0)
        lost[candidate.id] = std::round(static_cast<double>(by) * 1000) / 1000;
    return lost;
  };
  EXPECT_EQ(penalised({0, 1, 2, 0, 1}), (std::map<TokenId, double>{{2, 1.2}}));
  EXPECT_EQ(penalised({0, 1, 2, 0, 3, 1}), (std::map<TokenId, double>{{2, 0.8}})) << "only b counts";
  EXPECT_TRUE(penalised({0, 1, 2, 0, 1, 3}).empty());
  EXPECT_TRUE(penalised({1, 3, 0, 1}).empty()) << "breakers are repeated freely";
  expect_error(ErrorKind::unsupported, {"dry_sequence_breakers", "tokenizer"}, [&] { Sampler(options, 8); });
}

TEST(Dry, BreakersFollowASequenceThatGrowsOrChanges) {
  const text::Tokenizer tokenizer = words({"a", "b", "\n"});
  SequenceBreakers grown({"\n"}, tokenizer);
  base::Rng rng(3);
  Ids ids;
  for (int i = 0; i < 300; ++i) {
    if (i % 50 == 49) ids.assign(rng.below(5), 0);
    ids.push_back(static_cast<TokenId>(rng.below(3)));
    int64_t since = 0;
    while (since < std::ssize(ids) && ids[ids.size() - 1 - static_cast<size_t>(since)] != 2) ++since;
    ASSERT_EQ(grown.tokens_since(ids), since) << i;
  }
}

// --- XTC -------------------------------------------------------------------------------------------------------------

Candidates tenths(const std::vector<int>& parts) {
  Candidates candidates;
  for (size_t i = 0; i < parts.size(); ++i) candidates.push_back({static_cast<TokenId>(i), 0, parts[i] / 10.0});
  return candidates;
}

TEST(Xtc, AllTopChoicesButTheLeastAreExcluded) {
  const auto left = [](const std::vector<int>& parts, double threshold) {
    Candidates candidates = tenths(parts);
    exclude_top_choices(candidates, threshold);
    double sum = 0;
    std::set<TokenId> ids;
    for (const Candidate& candidate : candidates) sum += candidate.probability, ids.insert(candidate.id);
    EXPECT_NEAR(sum, 1, 1e-12);
    return ids;
  };
  using Set = std::set<TokenId>;
  EXPECT_EQ(left({2, 4, 1, 3}, 0.15), (Set{0, 2}));
  EXPECT_EQ(left({2, 4, 1, 3}, 0.25), (Set{0, 2, 3}));
  EXPECT_EQ(left({2, 4, 1, 3}, 0.35), (Set{0, 1, 2, 3})) << "one top choice is kept";
  EXPECT_EQ(left({2, 4, 1, 3}, 0.5), (Set{0, 1, 2, 3}));
  EXPECT_EQ(left({2, 4, 1, 3}, 0), (Set{2}));
  EXPECT_EQ(left({10, 0}, 0), (Set{0, 1})) << "what has no probability takes no part";
  EXPECT_EQ(left({5, 5}, 0.5), (Set{1})) << "of equal ones the later";
}

TEST(Xtc, HappensAsOftenAsAsked) {
  constexpr int64_t kDraws = 200000;
  const std::vector<float> logits = spread_logits(24);
  const Distribution all = softmax_of(logits);
  Options options;
  options.seed = 77, options.xtc_probability = 0.3, options.xtc_threshold = 0.05;
  std::vector<std::pair<double, TokenId>> top;
  for (const auto& [id, p] : all)
    if (p >= 0.05) top.push_back({p, id});
  ASSERT_GE(top.size(), 3u);
  const TokenId least = std::min_element(top.begin(), top.end())->second;
  Ids kept;
  for (const auto& [id, p] : all)
    if (p < 0.05 || id == least) kept.push_back(id);
  Distribution expected;
  for (const auto& [id, p] : all) expected[id] = 0.7 * p;
  for (const auto& [id, p] : only(all, kept)) expected[id] += 0.3 * p;
  const auto statistic = [&](const Options& of) {
    Sampler sampler(of, 24);
    std::map<TokenId, int64_t> drawn;
    const Ids text(static_cast<size_t>(kDraws));  // each position has its own random numbers
    for (size_t i = 0; i < text.size(); ++i) ++drawn[sampler.sample(logits, std::span(text).first(i))];
    return chi_square(drawn, expected, kDraws);
  };
  EXPECT_LT(statistic(options), chi_square_limit(23));
  options.xtc_probability = 0.32;
  EXPECT_GT(statistic(options), chi_square_limit(23)) << "the test can fail";
}

// --- Top-n-sigma -----------------------------------------------------------------------------------------------------

TEST(TopNSigma, KeepsWhatIsNearTheBest) {
  // Mean 3, squares of the distances 4 1 0 1 4: a standard deviation of sqrt 2; forbidden tokens do not count.
  const auto left = [](double n) {
    std::vector<float> logits = {1, 2, kNever, 3, 4, 5};
    top_n_sigma(logits, n);
    return logits;
  };
  EXPECT_EQ(left(0.7), (std::vector<float>{kNever, kNever, kNever, kNever, kNever, 5}));
  EXPECT_EQ(left(0.72), (std::vector<float>{kNever, kNever, kNever, kNever, 4, 5}));
  EXPECT_EQ(left(2.1), (std::vector<float>{kNever, kNever, kNever, 3, 4, 5}));
  EXPECT_EQ(left(3), (std::vector<float>{1, 2, kNever, 3, 4, 5}));
  std::vector<float> equal(4, 2.5f);
  top_n_sigma(equal, 1);
  EXPECT_EQ(equal, std::vector<float>(4, 2.5f));
}

TEST(TopNSigma, IsTheSameForEveryTemperature) {
  const std::vector<float> logits = spread_logits(200);
  double mean = 0, variance = 0;
  for (const float v : logits) mean += static_cast<double>(v) / 200;
  for (const float v : logits) variance += std::pow(static_cast<double>(v) - mean, 2) / 200;
  const double limit = static_cast<double>(*std::max_element(logits.begin(), logits.end())) - 1.5 * std::sqrt(variance);
  Ids kept;
  for (size_t i = 0; i < logits.size(); ++i)
    if (static_cast<double>(logits[i]) >= limit) kept.push_back(static_cast<TokenId>(i));
  ASSERT_GT(kept.size(), 5u);
  for (const double temperature : {0.5, 1.0, 3.0}) {
    Options options;
    options.temperature = temperature, options.top_n_sigma = 1.5;
    expect_equal(Sampler(options, 200).distribution(logits, {}), only(softmax_of(logits, temperature), kept));
  }
}

// --- Dynamic temperature ---------------------------------------------------------------------------------------------

TEST(DynamicTemperature, FollowsTheEntropy) {
  const std::vector<float> logits = spread_logits(24);
  const auto temperature_of = [](const std::vector<float>& values, double low, double high, double exponent) {
    double entropy = 0;
    for (const auto& [id, p] : softmax_of(values)) entropy -= p > 0 ? p * std::log(p) : 0;
    return low + (high - low) * std::pow(entropy / std::log(static_cast<double>(values.size())), exponent);
  };
  for (const double exponent : {0.5, 1.0, 2.0}) {
    Options options;
    options.temperature = 0.9, options.dynatemp_range = 0.4, options.dynatemp_exp = exponent;
    const double expected = temperature_of(logits, 0.5, 1.3, exponent);
    EXPECT_GT(expected, 0.6);
    EXPECT_LT(expected, 1.29);
    expect_equal(Sampler(options, 24).distribution(logits, {}), softmax_of(logits, expected));
  }
  Options wide;
  wide.temperature = 0.5, wide.dynatemp_range = 2;
  expect_equal(Sampler(wide, 24).distribution(logits, {}), softmax_of(logits, temperature_of(logits, 0, 2.5, 1)));
  const std::vector<float> alike(10, 1.0f), certain = {0, 4000, 0};
  expect_equal(Sampler(wide, 10).distribution(alike, {}), softmax_of(alike));
  expect_equal(Sampler(wide, 3).distribution(certain, {}), {{0, 0.0}, {1, 1.0}, {2, 0.0}});
}

// --- Mirostat 2.0 ----------------------------------------------------------------------------------------------------

TEST(Mirostat, CutsAtMuAndMovesItByTheError) {
  Options options;
  options.mirostat = 2, options.mirostat_ent = 2.5, options.mirostat_lr = 0.3, options.temperature = 1.2;
  options.seed = 9;
  Sampler sampler(options, 60);
  double mu = 2 * 2.5;
  std::set<size_t> sizes;
  for (uint64_t step = 0; step < 200; ++step) {
    const std::vector<float> logits = spread_logits(60, step);
    const Distribution all = softmax_of(logits, 1.2);
    Ids kept;
    TokenId best = 0;
    for (const auto& [id, p] : all) {
      if (p > all.at(best)) best = id;
      if (-std::log2(p) <= mu) kept.push_back(id);
    }
    if (kept.empty()) kept.push_back(best);
    sizes.insert(kept.size());
    const Distribution expected = only(all, kept);
    expect_equal(sampler.distribution(logits, {}), expected);
    const TokenId drawn = sampler.sample(logits, Ids(step));
    ASSERT_TRUE(expected.contains(drawn));
    mu -= 0.3 * (-std::log2(expected.at(drawn)) - 2.5);
  }
  EXPECT_GT(sizes.size(), 10u) << "the cut moves";
}

TEST(Mirostat, HoldsTheSurprise) {
  for (const double target : {1.5, 3.0, 4.5}) {
    Options options;
    options.mirostat = 2, options.mirostat_ent = target, options.seed = 4;
    Sampler sampler(options, 400);
    double surprise = 0;
    constexpr int kSteps = 2000;
    for (int step = 0; step < kSteps; ++step) {
      const std::vector<float> logits = spread_logits(400, static_cast<uint64_t>(step % 50));
      const Distribution left = as_map(sampler.distribution(logits, {}));
      surprise -= std::log2(left.at(sampler.sample(logits, Ids(static_cast<size_t>(step))))) / kSteps;
    }
    // The mean of the errors is (mu's way) / (rate · steps): mu stays within some 20 bits.
    EXPECT_NEAR(surprise, target, 20 / (0.1 * kSteps));
  }
}

// --- What is refused -------------------------------------------------------------------------------------------------

TEST(SamplerRules, OutOfRangeOrAgainstEachOtherAreRefusedByName) {
  const auto refused = [](const std::string& field, const std::string& word, auto set) {
    Options options;
    set(options);
    expect_error(ErrorKind::bad_input, {field, word}, [&] { Sampler(options, 24); });
  };
  refused("dry_multiplier", "-1", [](Options& o) { o.dry_multiplier = -1; });
  refused("dry_base", "0.5", [](Options& o) { o.dry_base = 0.5; });
  refused("dry_allowed_length", "at least 1", [](Options& o) { o.dry_allowed_length = 0; });
  refused("dry_penalty_last_n", "-2", [](Options& o) { o.dry_penalty_last_n = -2; });
  refused("dry_sequence_breakers", "empty", [](Options& o) { o.dry_sequence_breakers = {""}; });
  refused("xtc_probability", "1.5", [](Options& o) { o.xtc_probability = 1.5; });
  refused("xtc_threshold", "-1", [](Options& o) { o.xtc_threshold = -1; });
  refused("xtc_threshold", "half", [](Options& o) { o.xtc_probability = 0.5, o.xtc_threshold = 0.6; });
  refused("top_n_sigma", "-3", [](Options& o) { o.top_n_sigma = -3; });
  refused("dynatemp_range", "nan", [](Options& o) { o.dynatemp_range = NAN; });
  refused("dynatemp_exp", "above 0", [](Options& o) { o.dynatemp_exp = 0; });
  refused("mirostat", "2", [](Options& o) { o.mirostat = 1; });
  refused("mirostat_lr", "-0.1", [](Options& o) { o.mirostat_lr = -0.1; });
  refused("mirostat_ent", "bits", [](Options& o) { o.mirostat_ent = 0; });

  refused("xtc_probability", "temperature", [](Options& o) { o.temperature = 0, o.xtc_probability = 0.5; });
  refused("dynatemp_range", "temperature", [](Options& o) { o.temperature = 0, o.dynatemp_range = 0.5; });
  refused("mirostat", "temperature", [](Options& o) { o.temperature = 0, o.mirostat = 2; });
  refused("top_k", "Mirostat", [](Options& o) { o.mirostat = 2, o.top_k = 40; });
  refused("top_p", "Mirostat", [](Options& o) { o.mirostat = 2, o.top_p = 0.9; });
  refused("min_p", "Mirostat", [](Options& o) { o.mirostat = 2, o.min_p = 0.05; });
  refused("typical", "Mirostat", [](Options& o) { o.mirostat = 2, o.typical = 0.5; });
  refused("top_n_sigma", "Mirostat", [](Options& o) { o.mirostat = 2, o.top_n_sigma = 1; });
  refused("xtc_probability", "Mirostat", [](Options& o) { o.mirostat = 2, o.xtc_probability = 0.1; });
  refused("dynatemp_range", "Mirostat", [](Options& o) { o.mirostat = 2, o.dynatemp_range = 0.1; });
}

}  // namespace
}  // namespace coterie::runtime
