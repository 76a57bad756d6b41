#include "lens/information.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "base/rng.h"

// What is counted against what is known, by construction.
namespace coterie::lens {
namespace {

constexpr int64_t kWidth = 8;

/// Documents of 250 tokens with labels of 0 … 7, all alike in how often.
struct Planted {
  explicit Planted(uint64_t seed, int64_t documents = 40, int64_t length = 250) : rng(seed) {
    labels.name = "class", labels.classes = kWidth;
    for (int64_t d = 0; d < documents; ++d) {
      begins.push_back(d * length);
      for (int64_t t = 0; t < length; ++t) labels.of.push_back(static_cast<int32_t>(rng.below(kWidth)));
    }
    begins.push_back(documents * length);
  }
  /// Each token to its class's expert, but a share of them anywhere.
  void noisy(double anywhere) {
    for (const int32_t label : labels.of)
      experts.push_back(static_cast<int16_t>(rng.uniform_double() < anywhere ? rng.below(kWidth) : label));
  }
  Information told(int64_t permutations = 20) {
    return mutual_information(experts, 1, 1, kWidth, labels, begins, permutations, 7);
  }
  base::Rng rng;
  Labels labels;
  std::vector<int64_t> begins;
  std::vector<int16_t> experts;
};

double entropy_of(const std::vector<double>& p) {
  double h = 0;
  for (const double v : p) h -= v > 0 ? v * std::log(v) : 0;
  return h;
}

TEST(MutualInformation, OfAnExpertForEachClassIsAllThereIs) {
  Planted planted(1);
  planted.noisy(0);
  const Information told = planted.told();
  EXPECT_NEAR(told.nats, told.entropy, 1e-12);
  EXPECT_NEAR(told.entropy, std::log(8), 1e-3);
  EXPECT_GT(told.normalised, 0.99);
  EXPECT_EQ(told.p_value, 1.0 / 21);
  EXPECT_EQ(told.tokens, 10000);
}

TEST(MutualInformation, IsWithinItsErrorOfWhatWasPlantedAndItsIntervalsCover) {
  constexpr double kAnywhere = 0.6;
  // p(x | c): 1 - a + a/8 for its own, a/8 for each other; X and C are uniform.
  std::vector<double> row(kWidth, kAnywhere / kWidth);
  row[0] += 1 - kAnywhere;
  const double planted = (std::log(8) - entropy_of(row)) / std::log(8);
  int covered = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Planted one(seed);
    one.noisy(kAnywhere);
    const Information told = one.told();
    EXPECT_LT(std::abs(told.normalised - planted), 3 * told.standard_error) << seed << ": " << told.normalised;
    EXPECT_LT(told.standard_error, 0.02);
    covered += std::abs(told.normalised - planted) < 1.96 * told.standard_error;
  }
  EXPECT_GE(covered, 18);
}

TEST(MutualInformation, OfAUniformRouterIsNothing) {
  int surprising = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Planted one(seed);
    one.noisy(1);
    const Information told = one.told(39);
    EXPECT_GT(told.nats, 0) << "as counted it is never nothing";
    EXPECT_NEAR(told.permuted, 49.0 / 2 / 10000, 4e-4) << "(E-1)(C-1)/2N";
    EXPECT_LT(std::abs(told.normalised), 1e-3);
    surprising += told.p_value <= 0.05;
  }
  EXPECT_LE(surprising, 4);
}

TEST(MutualInformation, OfARouterThatFollowsPosition) {
  Planted planted(3);
  Labels position{.name = "position", .of = {}, .classes = 8};
  for (size_t t = 0; t < planted.labels.of.size(); ++t) {
    position.of.push_back(static_cast<int32_t>(std::min<size_t>(std::bit_width(t % 250), 7)));
    planted.experts.push_back(static_cast<int16_t>(position.of.back()));
  }
  const Information place = mutual_information(planted.experts, 1, 1, kWidth, position, planted.begins, 20, 1);
  EXPECT_NEAR(place.nats, place.entropy, 1e-12);
  const Information none = planted.told();
  EXPECT_LT(std::abs(none.normalised), 3 * none.standard_error + 1e-3);
}

// Texts that differ in what they are about differ by genre, too, by chance: tokens of one are not independent.
TEST(MutualInformation, WhatDocumentsHaveOfTheirOwnIsNotTheGenres) {
  int surprising = 0;
  double sum = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Planted one(seed);
    Labels genre{.name = "genre", .of = {}, .classes = 4, .permuted = Labels::Permuted::documents};
    for (size_t d = 0; d + 1 < one.begins.size(); ++d) {
      const auto favourite = static_cast<int16_t>(one.rng.below(kWidth));  // of the document, whatever its genre
      for (int64_t t = one.begins[d]; t < one.begins[d + 1]; ++t) {
        one.experts.push_back(one.rng.uniform_double() < 0.5 ? favourite : static_cast<int16_t>(one.rng.below(kWidth)));
        genre.of.push_back(static_cast<int32_t>(d % 4));
      }
    }
    const Information told = mutual_information(one.experts, 1, 1, kWidth, genre, one.begins, 39, 5);
    EXPECT_GT(told.nats, 10 * 21.0 / 2 / 10000) << "far more than independent tokens would share";
    surprising += told.p_value <= 0.05, sum += told.normalised;
  }
  EXPECT_LE(surprising, 4);
  EXPECT_LT(std::abs(sum / 20), 0.02);
}

TEST(MutualInformation, OfSeveralPlacesIsTheirMean) {
  Planted planted(4);
  std::vector<int16_t> both;
  for (const int32_t label : planted.labels.of) {
    planted.experts.push_back(static_cast<int16_t>(label));
    both.push_back(static_cast<int16_t>(label)), both.push_back(static_cast<int16_t>((label + 1) % 2));
  }
  std::vector<int16_t> second;
  for (size_t i = 1; i < both.size(); i += 2) second.push_back(both[i]);
  const Information two = mutual_information(both, 2, 2, kWidth, planted.labels, planted.begins, 5, 1);
  const Information of_first = planted.told(5);
  const Information of_second = mutual_information(second, 1, 1, kWidth, planted.labels, planted.begins, 5, 1);
  EXPECT_NEAR(two.nats, (of_first.nats + of_second.nats) / 2, 1e-12);
  EXPECT_NEAR(of_second.nats, std::log(2), 1e-2);
}

TEST(MutualInformation, LeavesOutTokensWithoutALabelAndPlacesWithoutAnExpert) {
  Planted planted(5);
  planted.noisy(0);
  for (size_t t = 0; t < planted.experts.size(); t += 2) planted.labels.of[t] = -1;
  for (size_t t = 1; t < planted.experts.size(); t += 4) planted.experts[t] = -1;
  const Information told = planted.told(2);
  EXPECT_EQ(told.tokens, 2500);
  EXPECT_NEAR(told.nats, told.entropy, 1e-12);
}

}  // namespace
}  // namespace coterie::lens
