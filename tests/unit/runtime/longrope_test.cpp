#include <gtest/gtest.h>

#include "base/rng.h"
#include "runtime/generation.h"
#include "unit/runtime/tiny_model.h"

// A sequence that grows past LongRoPE's original context is evaluated anew, once; a conversation that goes back below
// it too.
namespace coterie::runtime {
namespace {

class LongRope : public testing::Test {
 protected:
  static constexpr int64_t kOriginal = 12;  // of the fixture
  static EngineOptions options(int64_t step_tokens = 512) {
    EngineOptions options;
    options.threads = 2;
    options.precision = ops::Precision::f32;
    options.step_tokens = step_tokens;
    return options;
  }
  Engine engine{families::open_model(test::fixture("phi3/longrope-crossing")), options()};

  std::vector<TokenId> ids(int64_t count) const {
    base::Rng rng(7);
    std::vector<TokenId> result(static_cast<size_t>(count));
    for (TokenId& id : result) id = static_cast<TokenId>(rng.below(static_cast<uint32_t>(engine.spec().vocabulary)));
    return result;
  }
  struct Turn {
    std::vector<TokenId> all;
    int64_t evaluated;
  };
  static Turn turn(Engine& with, TokenCache& tokens, const std::vector<TokenId>& prompt, int64_t count) {
    GenerationOptions greedy;
    greedy.sampler.temperature = 0;
    greedy.max_tokens = count;
    greedy.ignore_end = true;
    Generation generation(with, std::move(tokens), prompt, greedy);
    run(with, generation, tokens);
    Turn result{prompt, generation.statistics().evaluated_tokens};
    const auto answer = generation.generated();
    result.all.insert(result.all.end(), answer.begin(), answer.end());
    return result;
  }
  // Each token from a pass over the whole sequence.
  std::vector<TokenId> without_cache(std::vector<TokenId> all, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      TokenCache tokens{engine.make_cache(), {}};
      all = turn(engine, tokens, all, 1).all;
    }
    return all;
  }
};

TEST_F(LongRope, CrossingEvaluatesAnewOnce) {
  const std::vector<TokenId> prompt = ids(8);
  TokenCache tokens{engine.make_cache(), {}};
  const Turn found = turn(engine, tokens, prompt, 14);
  EXPECT_EQ(found.all, without_cache(prompt, 14));
  EXPECT_EQ(found.evaluated, 8 + 13 + kOriginal) << "the prompt, each token but the last, the first 12 once more";
  Engine small(families::open_model(test::fixture("phi3/longrope-crossing")), options(3));
  TokenCache others{small.make_cache(), {}};
  EXPECT_EQ(turn(small, others, prompt, 14).all, found.all) << "in steps of 3 tokens";
}

TEST_F(LongRope, AShorterConversationDoesNotReuseLongKeys) {
  const std::vector<TokenId> prompt = ids(20), start(prompt.begin(), prompt.begin() + 9);
  TokenCache tokens{engine.make_cache(), {}};
  turn(engine, tokens, prompt, 2);
  const Turn again = turn(engine, tokens, start, 3);
  EXPECT_EQ(again.evaluated, 9 + 2) << "nothing of the long sequence's keys";
  EXPECT_EQ(again.all, without_cache(start, 3));
  const Turn further = turn(engine, tokens, again.all, 1);
  EXPECT_EQ(further.evaluated, 1) << "both short: kept";
}

}  // namespace
}  // namespace coterie::runtime
