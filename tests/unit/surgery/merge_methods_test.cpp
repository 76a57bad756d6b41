// Merge methods beside NumPy's results by mergekit's definitions (merge_reference.py), and what DELLA draws.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/rng.h"
#include "support/places.h"
#include "surgery/merge/merge_math.h"
#include "surgery/merge/sparsify.h"

namespace coterie::surgery {
namespace {

using Values = std::vector<float>;

void expect_near(const Values& found, const std::vector<double>& expected, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_NEAR(static_cast<double>(found[i]), expected[i], 2e-6) << what << " " << i;
}

struct MergeReference : testing::Test {
  MergeMethod method_of(const std::string& name) {
    const auto names = merge_method_names();
    return static_cast<MergeMethod>(std::find(names.begin(), names.end(), name) - names.begin());
  }
  Values merged(const base::Json& one) {
    const Values base = json["base"];
    std::vector<Values> models = json["models"];
    const std::vector<double> weights = json["weights"];
    MergeRule rule{.method = method_of(one["method"]),
                   .normalize = one.value("normalize", false),
                   .rescale = one.value("rescale", false),
                   .lambda = json["lambda"],
                   .filter_wise = one.value("filter_wise", false),
                   .shape = json["shape"]};
    std::vector<MergeInput> inputs;
    for (size_t i = 0; i < models.size(); ++i)
      inputs.push_back({models[i], weights[i], one.value("density", 1.0), one.value("gamma", 0.01)});
    Values out(base.size());
    if (rule.method == MergeMethod::nearswap)
      merge_nearswap(base, models[0], one["t"], out, pool);
    else if (rule.method == MergeMethod::model_stock)
      merge_stock(rule, base, inputs, out, pool);
    else
      merge_changes(rule, base, inputs, "w", out, pool);
    return out;
  }
  base::Json json = base::read_json(tests::source_folder() + "/unit/surgery/merge_reference.json");
  threads::Pool pool{3};
};

TEST_F(MergeReference, EveryCaseIsNumPys) {
  EXPECT_EQ(json["cases"].size(), 11u);
  for (const base::Json& one : json["cases"]) {
    base::Json told = one;
    told.erase("expected");
    expect_near(merged(one), one["expected"], told.dump());
  }
}

TEST_F(MergeReference, DellasProbabilitiesAreNumPys) {
  const Values base = json["base"];
  const int64_t width = json["shape"][1];
  Values change = json["models"][0];
  for (size_t i = 0; i < base.size(); ++i) change[i] -= base[i];
  for (const base::Json& one : json["probabilities"]) {
    const double density = one["density"], epsilon = one["epsilon"];
    const std::vector<double> rows = one["rows"], vector = one["vector"];
    const std::vector<double> of_all = keep_probabilities(change, density, epsilon);
    for (size_t i = 0; i < change.size(); ++i) EXPECT_NEAR(of_all[i], vector[i], 1e-12);
    for (size_t r = 0; r < change.size(); r += static_cast<size_t>(width)) {
      const std::vector<double> of_row =
          keep_probabilities(std::span<const float>(change).subspan(r, static_cast<size_t>(width)), density, epsilon);
      for (size_t i = 0; i < of_row.size(); ++i) EXPECT_NEAR(of_row[i], rows[r + i], 1e-12);
    }
  }
  EXPECT_EQ(keep_probabilities(Values{3}, 0.4, 0.1), std::vector<double>{0.4});
}

// 4000 lines of five magnitudes along the second dimension, in shuffled places: each rank is kept as often as it is to
// be.
TEST(Della, KeepsByRankAlongTheSecondDimension) {
  const double density = 0.45, epsilon = 0.3;
  constexpr int64_t kOuter = 40, kLength = 5, kInner = 100;
  base::Rng rng(3);
  Values values(kOuter * kLength * kInner);
  std::vector<int> ranks(values.size());
  for (int64_t line = 0; line < kOuter * kInner; ++line) {
    std::vector<int> order = {0, 1, 2, 3, 4};
    for (uint32_t i = 4; i > 0; --i) std::swap(order[i], order[rng.below(i + 1)]);
    for (int64_t i = 0; i < kLength; ++i) {
      const auto at = static_cast<size_t>((line / kInner * kLength + i) * kInner + line % kInner);
      ranks[at] = order[static_cast<size_t>(i)];
      values[at] = (rng.below(2) ? -1.0f : 1.0f) * (1.0f + static_cast<float>(ranks[at]) + 0.5f * rng.uniform());
    }
  }
  const Values before = values;
  threads::Pool pool(3), one(1);
  drop_by_rank(values, {kOuter, kLength, kInner}, {density, epsilon, 7, "w", 0}, pool);
  std::vector<int> kept(kLength);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_TRUE(values[i] == 0 || values[i] == before[i]);
    kept[static_cast<size_t>(ranks[i])] += values[i] != 0;
  }
  for (size_t rank = 0; rank < kLength; ++rank) {
    const double p = density - epsilon + 2 * epsilon * static_cast<double>(rank) / 4, lines = kOuter * kInner;
    EXPECT_NEAR(kept[rank], p * lines, 4.5 * std::sqrt(lines * p * (1 - p))) << rank;
  }
  Values again = before, other = before, input = before;
  drop_by_rank(again, {kOuter, kLength, kInner}, {density, epsilon, 7, "w", 0}, one);
  EXPECT_EQ(again, values) << "any number of threads";
  drop_by_rank(other, {kOuter, kLength, kInner}, {density, epsilon, 8, "w", 0}, one);
  EXPECT_NE(other, values);
  drop_by_rank(input, {kOuter, kLength, kInner}, {density, epsilon, 7, "w", 1}, one);
  EXPECT_NE(input, values);
}

// What is kept is made larger until the magnitudes sum to what they did; that and the election are all there is.
TEST(Della, RescalesAndElects) {
  base::Rng rng(8);
  Values base(600), first(600), second(600);
  for (size_t i = 0; i < base.size(); ++i)
    base[i] = rng.normal(), first[i] = base[i] + rng.normal(), second[i] = base[i] + rng.normal();
  threads::Pool pool(2);
  const auto merged = [&](MergeMethod method, std::vector<Values> models, std::optional<bool> rescale) {
    std::vector<MergeInput> inputs;
    for (Values& model : models) inputs.push_back({model, 1, 0.5, 0.01, 0.2});
    Values out(base.size());
    merge_changes({.method = method, .normalize = false, .rescale = rescale, .shape = {20, 30}, .seed = 5}, base,
                  inputs, "w", out, pool);
    for (size_t i = 0; i < out.size(); ++i) out[i] -= base[i];
    return out;
  };
  Values change = first;
  for (size_t i = 0; i < change.size(); ++i) change[i] -= base[i];
  const Values plain = merged(MergeMethod::della_linear, {first}, false);
  const Values larger = merged(MergeMethod::della_linear, {first}, {});
  EXPECT_NEAR(sum_of_magnitudes(larger) / sum_of_magnitudes(change), 1, 1e-5);
  const double factor = sum_of_magnitudes(change) / sum_of_magnitudes(plain);
  EXPECT_GT(factor, 1.2);
  for (size_t i = 0; i < plain.size(); ++i)
    EXPECT_NEAR(static_cast<double>(larger[i]), factor * static_cast<double>(plain[i]), 1e-5);
  const Values sum = merged(MergeMethod::della_linear, {first, second}, {});
  const Values elected = merged(MergeMethod::della, {first, second}, {});
  const Values one = merged(MergeMethod::della_linear, {first}, {});
  int64_t disagreeing = 0;
  for (size_t i = 0; i < sum.size(); ++i) {
    const float other = sum[i] - one[i];
    const bool apart = one[i] * other < 0 && std::abs(one[i]) > 1e-4f && std::abs(other) > 1e-4f;
    disagreeing += apart;
    if (apart)
      EXPECT_NEAR(elected[i], std::abs(one[i]) > std::abs(other) ? one[i] : other, 1e-5) << i;
    else
      EXPECT_NEAR(elected[i], sum[i], 2e-4) << i;
  }
  EXPECT_GT(disagreeing, 20);
}

TEST(Breadcrumbs, DropsOutliersAndTheSmallest) {
  Values values = {1, -8, 3, 0.5f, -2, 9, 4, -5, 6, 7};
  keep_below_outliers(values, 0.4, 0.2);
  EXPECT_EQ(values, (Values{0, 0, 0, 0, 0, 0, 4, -5, 6, 7}));
  Values most = {1, 2, 3, 4, 5};
  keep_below_outliers(most, 0.8, 0.6);  // four are to stay: one outlier at most
  EXPECT_EQ(most, (Values{1, 2, 3, 4, 0}));
  Values none = {1, 2};
  keep_below_outliers(none, 0.4, 0);
  EXPECT_EQ(none, (Values{0, 0}));
}

TEST(ModelStock, OfChangesAtRightAnglesOrAgainstEachOtherIsTheBase) {
  threads::Pool pool(1);
  const Values base = {1, 1};
  const auto stock = [&](Values a, Values b) {
    const MergeInput inputs[] = {{a}, {b}};
    Values out(2);
    merge_stock({.method = MergeMethod::model_stock}, base, inputs, out, pool);
    return out;
  };
  EXPECT_EQ(stock({2, 1}, {1, 3}), base);
  EXPECT_EQ(stock({2, 1}, {0, 1}), base) << "1 + cos is 0";
  EXPECT_EQ(stock({2, 1}, {4, 1}), (Values{3, 1})) << "parallel: the mean";
}

}  // namespace
}  // namespace coterie::surgery
