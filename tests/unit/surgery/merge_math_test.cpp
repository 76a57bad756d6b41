#include "surgery/merge/merge_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "support/expect_error.h"

// The arithmetic of merging at its edges; what it does to models is in tests/laws/surgery/merge_test.cpp.
namespace coterie::surgery {
namespace {

using Values = std::vector<float>;

struct MergeMath : testing::Test {
  Values changes(MergeMethod method, const Values& base, std::vector<Values> inputs, double density,
                 bool normalize = false, std::vector<double> weights = {}) {
    std::vector<MergeInput> list;
    for (size_t i = 0; i < inputs.size(); ++i) list.push_back({inputs[i], weights.empty() ? 1.0 : weights[i], density});
    Values out(base.size());
    merge_changes({.method = method, .normalize = normalize}, base, list, "w", out, pool);
    return out;
  }
  Values slerp(const Values& a, const Values& b, double t) {
    Values out(a.size());
    merge_slerp(a, b, t, out, pool);
    return out;
  }
  threads::Pool pool{3};
};

TEST_F(MergeMath, TiesKeepsOneValueAtLeastAndTheEarlierOfEqualOnes) {
  const Values base = {0, 0, 0, 0};
  EXPECT_EQ(changes(MergeMethod::ties, base, {{1, -3, 3, 2}}, 0.01), (Values{0, -3, 0, 0}));
  EXPECT_EQ(changes(MergeMethod::ties, base, {{1, -3, 3, 2}}, 0.5), (Values{0, -3, 3, 0}));
  EXPECT_EQ(changes(MergeMethod::ties, base, {{1, 1, 1, 1}}, 0.5), (Values{1, 1, 0, 0}));
  EXPECT_EQ(changes(MergeMethod::ties, base, {{0, 0, 0, 0}}, 0.5), base);
  // Numbers whose upper halves are the same, and denormal ones.
  const float near = std::nextafter(1.0f, 2.0f), tiny = 1e-42f;
  EXPECT_EQ(changes(MergeMethod::ties, base, {{1, near, tiny, 2 * tiny}}, 0.25), (Values{0, near, 0, 0}));
  EXPECT_EQ(changes(MergeMethod::ties, base, {{0, tiny, 2 * tiny, 0}}, 0.25), (Values{0, 0, 2 * tiny, 0}));
}

TEST_F(MergeMath, TiesKeepsExactlyAsManyAsAskedFor) {
  base::Rng rng(1);
  Values change(10007);
  for (float& v : change) v = rng.normal();
  for (const double density : {0.001, 0.1, 0.37, 0.9, 0.9999}) {
    const Values out = changes(MergeMethod::ties, Values(change.size()), {change}, density);
    const auto kept = std::count_if(out.begin(), out.end(), [](float v) { return v != 0; });
    EXPECT_EQ(kept, static_cast<int64_t>(density * 10007));
    float least_kept = 10, largest_dropped = 0;
    for (size_t i = 0; i < out.size(); ++i)
      (out[i] != 0 ? least_kept : largest_dropped) =
          out[i] != 0 ? std::min(least_kept, std::abs(out[i])) : std::max(largest_dropped, std::abs(change[i]));
    EXPECT_GE(least_kept, largest_dropped);
  }
}

TEST_F(MergeMath, TheElectedSignIsThatOfTheWeightedSum) {
  const Values base = {10, 10, 10};
  // +2 and -1; +1 and -2; +1 and -1, which is no sign and counts as plus.
  const std::vector<Values> inputs = {{12, 11, 11}, {9, 8, 9}};
  EXPECT_EQ(changes(MergeMethod::ties, base, inputs, 1, true), (Values{12, 8, 11}));
  EXPECT_EQ(changes(MergeMethod::ties, base, inputs, 1, false, {1, 4}), (Values{6, 2, 6}));
  EXPECT_EQ(changes(MergeMethod::task_arithmetic, base, inputs, 1), (Values{11, 9, 10}));
  EXPECT_EQ(changes(MergeMethod::task_arithmetic, base, inputs, 1, true), (Values{10.5, 9.5, 10}));
}

TEST_F(MergeMath, WhatDareKeepsIsDividedByTheDensityUnlessTold) {
  const Values base(8192), change(8192, 1.0f);
  Values out = changes(MergeMethod::dare_linear, base, {change}, 0.25);
  EXPECT_EQ(std::count(out.begin(), out.end(), 4.0f) + std::count(out.begin(), out.end(), 0.0f), 8192);
  EXPECT_NEAR(static_cast<double>(std::count(out.begin(), out.end(), 4.0f)), 2048, 4 * std::sqrt(8192 * 0.25 * 0.75));
  Values used = change;
  const MergeInput input{used, 1, 0.25};
  merge_changes({.method = MergeMethod::dare_linear, .normalize = false, .rescale = false}, base, {&input, 1}, "w", out,
                pool);
  EXPECT_EQ(std::count(out.begin(), out.end(), 1.0f) + std::count(out.begin(), out.end(), 0.0f), 8192);
}

TEST_F(MergeMath, SlerpOfParallelAndOfEmptyVectorsIsStraight) {
  const Values a = {3, 0}, b = {0, 4}, twice = {6, 0}, opposite = {-3, 0}, none = {0, 0};
  const Values quarter = slerp(a, b, 0.5);  // 45 degrees between them
  EXPECT_NEAR(quarter[0], 3 * std::sqrt(0.5), 1e-6);
  EXPECT_NEAR(quarter[1], 4 * std::sqrt(0.5), 1e-6);
  EXPECT_EQ(slerp(a, twice, 0.5), (Values{4.5, 0}));
  EXPECT_EQ(slerp(a, opposite, 0.25), (Values{1.5, 0}));
  EXPECT_EQ(slerp(none, none, 0.5), none);
  for (const float v : slerp(none, b, 0.5)) EXPECT_TRUE(std::isfinite(v));
  EXPECT_EQ(slerp(a, b, 0), a);
  EXPECT_EQ(slerp(a, b, 1), b);
}

TEST_F(MergeMath, LinearDividesByTheSumOfTheWeights) {
  Values a = {1, 2}, b = {3, 6}, out(2);
  const MergeInput inputs[] = {{a, 1, 1}, {b, 3, 1}};
  merge_linear(inputs, true, out, pool);
  EXPECT_EQ(out, (Values{2.5, 5}));
  merge_linear(inputs, false, out, pool);
  EXPECT_EQ(out, (Values{10, 20}));
  const MergeInput none[] = {{a, 1, 1}, {b, -1, 1}};
  expect_error(base::ErrorKind::bad_input, {"weight", "0"}, [&] { merge_linear(none, true, out, pool); });
}

}  // namespace
}  // namespace coterie::surgery
