#include <gtest/gtest.h>

#include "base/rng.h"
#include "runtime/generation.h"
#include "runtime/recurrent_states.h"
#include "unit/runtime/tiny_model.h"

// Laws of recurrent states in a conversation: another turn, an edited history and another answer to the same prompt
// give the bits of a full recompute, and evaluate only what is new since the nearest snapshot.
namespace coterie::runtime {
namespace {

class HybridTurns : public testing::TestWithParam<const char*> {
 protected:
  static EngineOptions options(int64_t step_tokens = 512, int64_t interval = 1024) {
    EngineOptions options;
    options.threads = 2;
    options.precision = ops::Precision::f32;
    options.step_tokens = step_tokens;
    options.snapshot_interval = interval;
    return options;
  }
  Engine engine{families::open_model(test::fixture(GetParam())), options()};

  static GenerationOptions greedy(int64_t tokens) {
    GenerationOptions options;
    options.sampler.temperature = 0;
    options.max_tokens = tokens;
    options.ignore_end = true;
    return options;
  }
  std::vector<TokenId> ids(int64_t count, uint64_t seed) const {
    base::Rng rng(seed);
    std::vector<TokenId> result(static_cast<size_t>(count));
    for (TokenId& id : result) id = static_cast<TokenId>(rng.below(static_cast<uint32_t>(engine.spec().vocabulary)));
    return result;
  }
  struct Turn {
    std::vector<TokenId> answer;
    int64_t evaluated;
  };
  static Turn turn(Engine& with, TokenCache& tokens, const std::vector<TokenId>& prompt, int64_t count) {
    Generation generation(with, std::move(tokens), prompt, greedy(count));
    run(with, generation, tokens);
    const auto answer = generation.generated();
    return {{answer.begin(), answer.end()}, generation.statistics().evaluated_tokens};
  }
  Turn anew(const std::vector<TokenId>& prompt, int64_t count) {
    TokenCache tokens{engine.make_cache(), {}};
    return turn(engine, tokens, prompt, count);
  }
  static std::vector<TokenId> joined(std::vector<TokenId> a, const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
};

TEST_P(HybridTurns, TheSecondTurnEvaluatesOnlyWhatIsNew) {
  TokenCache tokens{engine.make_cache(), {}};
  const std::vector<TokenId> first = ids(21, 1);
  const Turn one = turn(engine, tokens, first, 9);
  EXPECT_EQ(one.evaluated, 21 + 8);
  const std::vector<TokenId> second = joined(joined(first, one.answer), ids(7, 2));
  const Turn two = turn(engine, tokens, second, 9);
  EXPECT_EQ(two.evaluated, 1 + 7 + 8) << "the last answer token, the new turn, the answer";
  EXPECT_EQ(two.answer, anew(second, 9).answer);
}

TEST_P(HybridTurns, AnotherContinuationOfAPromptEvaluatesOnlyWhatIsNew) {
  TokenCache tokens{engine.make_cache(), {}};
  const std::vector<TokenId> first = ids(21, 1);
  const Turn one = turn(engine, tokens, first, 9);
  std::vector<TokenId> other = one.answer;
  other.front() = (other.front() + 1) % 100;
  const std::vector<TokenId> second = joined(first, other);
  const Turn two = turn(engine, tokens, second, 5);
  EXPECT_EQ(two.evaluated, 9 + 4);
  EXPECT_EQ(two.answer, anew(second, 5).answer);
}

TEST_P(HybridTurns, TheSamePromptAgainEvaluatesItsLastToken) {
  TokenCache tokens{engine.make_cache(), {}};
  const std::vector<TokenId> prompt = ids(33, 3);
  const Turn one = turn(engine, tokens, prompt, 6);
  const Turn two = turn(engine, tokens, prompt, 6);
  EXPECT_EQ(two.answer, one.answer);
  EXPECT_EQ(two.evaluated, 1 + 5);
}

TEST_P(HybridTurns, AnEditedHistoryGoesBackToTheNearestCheckpoint) {
  Engine small(families::open_model(test::fixture(GetParam())), options(512, 16));
  TokenCache tokens{small.make_cache(), {}};
  std::vector<TokenId> prompt = ids(60, 4);
  turn(small, tokens, prompt, 4);
  EXPECT_EQ(tokens.cache.snapshots(), (std::vector<int64_t>{16, 32, 48, 59, 60}));
  prompt[40] = (prompt[40] + 1) % 100;
  const Turn edited = turn(small, tokens, prompt, 4);
  EXPECT_EQ(edited.evaluated, 60 - 32 + 3);
  EXPECT_EQ(edited.answer, anew(prompt, 4).answer);
}

TEST_P(HybridTurns, StepsOfAnySizeGiveTheSameTokens) {
  const std::vector<TokenId> prompt = ids(50, 5);
  const Turn whole = anew(prompt, 8);
  for (const int64_t step : {1, 3, 16, 49})
    for (const int64_t interval : {5, 1024}) {
      Engine other(families::open_model(test::fixture(GetParam())), options(step, interval));
      TokenCache tokens{other.make_cache(), {}};
      EXPECT_EQ(turn(other, tokens, prompt, 8).answer, whole.answer) << step << ' ' << interval;
    }
}

INSTANTIATE_TEST_SUITE_P(Families, HybridTurns,
                         testing::Values("mamba", "mamba2", "jamba", "zamba", "zamba2", "granitemoehybrid"),
                         [](const auto& each) { return std::string(each.param); });

TEST(RecurrentStates, KeepsTheNewestAndSpreadsTheRest) {
  StateShape shape;
  shape.offset = {0, 2, 2, 5}, shape.most = 3;
  RecurrentStates states(shape);
  EXPECT_EQ(states.layer(0).size(), 2u);
  EXPECT_EQ(states.layer(1).size(), 0u);
  EXPECT_EQ(states.layer(2).size(), 3u);
  EXPECT_EQ(states.layer(2)[2], 0);
  for (const int64_t length : {10, 20, 21, 40, 50}) {
    states.layer(2)[1] = static_cast<float>(length);
    states.remember(length);
  }
  EXPECT_EQ(states.snapshots().size(), 3u);
  EXPECT_EQ(states.snapshots().back(), 50);
  const int64_t before = states.snapshots()[1];
  EXPECT_EQ(states.restore(49), before);
  EXPECT_EQ(states.layer(2)[1], static_cast<float>(before));
  EXPECT_EQ(states.restore(9), 0);
  EXPECT_EQ(states.layer(2)[1], 0);
  EXPECT_TRUE(states.snapshots().empty());
}

}  // namespace
}  // namespace coterie::runtime
