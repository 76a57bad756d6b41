#include "serve/step_cost.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace coterie::serve {
namespace {

/// A machine whose steps cost what the model says, in seconds.
struct Machine {
  double fixed, each, decode;
  double step(int64_t prompt, int64_t decoding) const {
    return prompt == 0 ? decode * static_cast<double>(decoding) : fixed + each * static_cast<double>(prompt);
  }
};

/// Reads a prompt of `tokens` in pieces beside `decoding` sequences; returns the longest step of the last half.
double longest_step(StepCost& cost, const Machine& machine, double stall, int64_t tokens, int64_t decoding) {
  double longest = 0;
  for (int64_t done = 0, between = 0; done < tokens;) {
    if (between-- > 0) {
      cost.measured(0, decoding, machine.step(0, decoding));
      continue;
    }
    const int64_t n = std::min(cost.chunk(stall), tokens - done);
    const double seconds = machine.step(n, decoding);
    if (done > tokens / 2) longest = std::max(longest, seconds);
    cost.measured(n, decoding, seconds);
    between = cost.decode_steps_after(stall, decoding);
    done += n;
  }
  return longest;
}

TEST(StepCost, FindsPiecesThatFitTheStall) {
  const Machine machine{0.1, 0.004, 0.03};
  StepCost cost;
  cost.measured(0, 4, machine.step(0, 4));
  const double longest = longest_step(cost, machine, 0.5, 4000, 4);
  EXPECT_LE(longest, 0.5);
  EXPECT_GE(longest, 0.4) << "pieces that are too small read the weights too often";
  EXPECT_NEAR(cost.line().fixed, 0.1, 0.01);
  EXPECT_NEAR(cost.line().each, 0.004, 0.0004);
  EXPECT_EQ(cost.decode_steps_after(0.5, 4), 0);
  EXPECT_NEAR(cost.seconds(100, 4), 0.5, 0.05);
  EXPECT_NEAR(cost.seconds(0, 3), 0.12, 1e-9) << "the nearest number that was measured";
}

TEST(StepCost, NeverReadsTheWeightsForLessArithmeticThanReading) {
  const Machine machine{0.8, 0.01, 0.1};  // the weights alone take longer than the stall
  StepCost cost;
  cost.measured(0, 2, machine.step(0, 2));
  const double longest = longest_step(cost, machine, 0.5, 4000, 2);
  EXPECT_NEAR(longest, cost.floor_seconds(0.5), 0.1);
  EXPECT_NEAR(cost.floor_seconds(0.5), 0.8 + 1.2, 0.1) << "120 tokens: half as much arithmetic again as reading";
  // A fifth of 2 seconds a piece, 0.2 seconds a step.
  int64_t steps = 0;
  for (int piece = 0; piece < 10; ++piece) steps += cost.decode_steps_after(0.5, 2);
  EXPECT_NEAR(static_cast<double>(steps), 20, 2);
  EXPECT_EQ(cost.decode_steps_after(2, 2), 0);
  EXPECT_LE(machine.step(cost.chunk(2), 2), 2);
}

TEST(StepCost, DoesNotJumpFromWholeStepsToTooLargePieces) {
  // Prompts were read alone, in steps of one size; then somebody decodes.
  const Machine machine{0.3, 0.004, 0.03};
  StepCost cost;
  for (int i = 0; i < 5; ++i) cost.measured(512, 0, machine.step(512, 0));
  EXPECT_LE(machine.step(cost.chunk(0.5), 1), 0.55);
}

TEST(StepCost, FollowsAMachineThatBecomesSlower) {
  StepCost cost;
  longest_step(cost, {0.05, 0.002, 0.02}, 0.5, 4000, 1);
  const Machine slower{0.1, 0.006, 0.04};
  EXPECT_LE(longest_step(cost, slower, 0.5, 6000, 1), 0.55);
}

TEST(StepCost, LeavesRoomForPiecesThatTakeLongerNowAndThen) {
  const Machine machine{0.1, 0.004, 0.03};
  StepCost cost;
  double longest = 0;
  for (int piece = 0; piece < 60; ++piece) {
    const int64_t n = cost.chunk(0.5);
    const double seconds = machine.step(n, 4) * (piece % 7 == 6 ? 1.5 : 1);
    if (piece >= 30) longest = std::max(longest, seconds);
    cost.measured(n, 4, seconds);
  }
  EXPECT_LE(longest, 0.55);
  EXPECT_GE(longest, 0.35) << "room that is not needed costs reading";
}

// Pieces made to last equally long differ little in size: what their times tell is attention, which grows, and noise.
TEST(StepCost, HoldsTheStallWhileTokensBecomeDearer) {
  StepCost cost;
  cost.measured(0, 4, 0.06);
  double shortest = 1;
  int64_t depth = 0;
  for (int piece = 0; piece < 80; ++piece) {
    const int64_t n = cost.chunk(0.5);
    const double noise = 1 + 0.1 * (piece * 7 % 11 - 5) / 5;
    const double seconds = (0.1 + static_cast<double>(n) * (0.0016 + 1e-6 * static_cast<double>(depth))) * noise;
    EXPECT_LE(seconds, 0.55) << piece << ": " << n << " tokens";
    if (piece >= 10) shortest = std::min(shortest, seconds);
    cost.measured(n, 4, seconds);
    EXPECT_EQ(cost.decode_steps_after(0.5, 4), 0) << piece;
    depth += n;
  }
  EXPECT_GE(shortest, 0.3);
}

TEST(StepCost, KnowsNothingAtFirst) {
  const StepCost cost;
  EXPECT_EQ(cost.seconds(100, 1), 0);
  EXPECT_EQ(cost.seconds(0, 1), 0);
  EXPECT_EQ(cost.prompt_rate(), 0);
  EXPECT_EQ(cost.floor_seconds(0.5), 0);
  EXPECT_EQ(cost.chunk(0.5), 32);
}

}  // namespace
}  // namespace coterie::serve
