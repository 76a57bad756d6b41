#include "serve/logprobs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace coterie::serve {
namespace {

TEST(Logprobs, AreThoseOfASoftmax) {
  // Probabilities 1/2, 1/4, 1/8, 1/8, at a level whose exponential would be infinite.
  std::vector<float> logits;
  for (const double p : {0.25, 0.5, 0.125, 0.125}) logits.push_back(static_cast<float>(std::log(p) + 1000));
  const Logprobs result = logprobs(logits, 2, 3);
  EXPECT_NEAR(result.of_token, std::log(0.125), 1e-4);
  ASSERT_EQ(result.top.size(), 3U);
  EXPECT_EQ(result.top[0].id, 1);
  EXPECT_EQ(result.top[1].id, 0);
  EXPECT_EQ(result.top[2].id, 2) << "of equal ones the lower id";
  EXPECT_NEAR(result.top[0].logprob, std::log(0.5), 1e-4);
}

TEST(Logprobs, TakeWhatThereIs) {
  const std::vector<float> logits = {0, -std::numeric_limits<float>::infinity()};
  const Logprobs result = logprobs(logits, 0, 20);
  EXPECT_EQ(result.of_token, 0);
  ASSERT_EQ(result.top.size(), 2U);
  EXPECT_EQ(result.top[1].logprob, -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(logprobs(logits, 0, 0).top.empty());
}

}  // namespace
}  // namespace coterie::serve
