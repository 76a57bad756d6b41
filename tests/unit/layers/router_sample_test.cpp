#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "layers/moe/choose.h"

// Selection::sample against its definition: experts drawn without replacement in proportion to
// softmax(logits / temperature).
namespace coterie::layers {
namespace {

constexpr int64_t kDraws = 40000;
const std::array<float, 5> kLogits = {1.0f, 0.0f, -1.0f, 2.0f, 0.5f};

RouterSpec sampling(int64_t k, float temperature) {
  RouterSpec spec{.experts = 5, .experts_per_token = k};
  spec.selection = RouterSpec::Selection::sample;
  spec.temperature = temperature;
  return spec;
}

std::array<double, 5> probabilities(double temperature) {
  std::array<double, 5> p{};
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(static_cast<double>(kLogits[i]) / temperature);
  for (double& value : p) value /= sum;
  return p;
}

// Five standard deviations of a binomial count.
void expect_count(int64_t found, double p, const char* what) {
  const double expected = p * kDraws, deviation = std::sqrt(kDraws * p * (1 - p));
  EXPECT_NEAR(static_cast<double>(found), expected, 5 * deviation) << what;
}

TEST(RouterSample, OneExpertFollowsTheSoftmax) {
  for (const float temperature : {0.5f, 1.0f, 3.0f}) {
    const RouterSpec spec = sampling(1, temperature);
    std::array<int64_t, 5> count{};
    std::array<double, 11> scratch{};
    for (int64_t position = 0; position < kDraws; ++position) {
      int32_t id;
      float weight;
      choose({spec, kLogits.data(), nullptr, {7, 3, position}, scratch}, &id, &weight);
      ++count[static_cast<size_t>(id)];
      // The weight is the expert's own probability, at temperature 1.
      EXPECT_NEAR(weight, probabilities(1)[static_cast<size_t>(id)], 1e-6);
    }
    for (size_t i = 0; i < count.size(); ++i) expect_count(count[i], probabilities(temperature)[i], "expert");
  }
}

TEST(RouterSample, PairsAreDrawnWithoutReplacement) {
  const RouterSpec spec = sampling(2, 1);
  const std::array<double, 5> p = probabilities(1);
  std::array<std::array<int64_t, 5>, 5> count{};
  std::array<double, 11> scratch{};
  for (int64_t position = 0; position < kDraws; ++position) {
    std::array<int32_t, 2> ids{};
    std::array<float, 2> weights{};
    choose({spec, kLogits.data(), nullptr, {11, 0, position}, scratch}, ids.data(), weights.data());
    ++count[static_cast<size_t>(ids[0])][static_cast<size_t>(ids[1])];
  }
  for (size_t i = 0; i < 5; ++i)
    for (size_t j = 0; j < 5; ++j) {
      if (i == j)
        EXPECT_EQ(count[i][j], 0);
      else
        expect_count(count[i][j], p[i] * p[j] / (1 - p[i]), "pair");
    }
}

TEST(RouterSample, ADrawIsAFunctionOfKeyLayerAndPosition) {
  const RouterSpec spec = sampling(2, 1);
  const auto draw = [&](uint64_t key, int64_t layer, int64_t position) {
    std::array<double, 11> scratch{};
    std::array<int32_t, 2> ids{};
    std::array<float, 2> weights{};
    choose({spec, kLogits.data(), nullptr, {key, layer, position}, scratch}, ids.data(), weights.data());
    return ids;
  };
  int different_key = 0, different_layer = 0;
  for (int64_t position = 0; position < 200; ++position) {
    EXPECT_EQ(draw(1, 2, position), draw(1, 2, position));
    different_key += draw(1, 2, position) != draw(2, 2, position);
    different_layer += draw(1, 2, position) != draw(1, 3, position);
  }
  EXPECT_GT(different_key, 100);
  EXPECT_GT(different_layer, 100);
}

// With a bias of selection the proportions are those of exp(score + bias), and the weights still of the score alone;
// groups are kept as without drawing.
TEST(RouterSample, BiasAndGroupsCountAsInTheChoice) {
  RouterSpec spec{.experts = 6, .experts_per_token = 1, .score = RouterSpec::Score::sigmoid};
  spec.selection = RouterSpec::Selection::sample;
  spec.selection_bias = true;
  spec.groups = 3, spec.groups_kept = 2, spec.group_score = RouterSpec::GroupScore::best_two;
  const std::array<float, 6> logits = {0, 1, -1, -1, 0.5f, 2}, bias = {0.3f, 0.1f, 0, -0.5f, 1, -0.2f};
  std::array<double, 6> p{}, sigmoid{};
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    sigmoid[i] = 1 / (1 + std::exp(-static_cast<double>(logits[i])));
    p[i] = i == 2 || i == 3 ? 0 : std::exp(sigmoid[i] + static_cast<double>(bias[i]));
    sum += p[i];
  }
  std::array<int64_t, 6> count{};
  std::array<double, 15> scratch{};
  for (int64_t position = 0; position < kDraws; ++position) {
    int32_t id;
    float weight;
    choose({spec, logits.data(), bias.data(), {7, 3, position}, scratch}, &id, &weight);
    ++count[static_cast<size_t>(id)];
    EXPECT_NEAR(weight, sigmoid[static_cast<size_t>(id)], 1e-6);
  }
  for (size_t i = 0; i < count.size(); ++i) expect_count(count[i], p[i] / sum, "expert");
}

TEST(RouterSample, ColdIsGreedy) {
  const RouterSpec sharp = sampling(3, 1e-3f);
  std::array<double, 11> scratch{};
  for (int64_t position = 0; position < 500; ++position) {
    std::array<int32_t, 3> ids{};
    std::array<float, 3> weights{};
    choose({sharp, kLogits.data(), nullptr, {5, 0, position}, scratch}, ids.data(), weights.data());
    EXPECT_EQ(ids, (std::array<int32_t, 3>{3, 0, 4}));
  }
}

}  // namespace
}  // namespace coterie::layers
