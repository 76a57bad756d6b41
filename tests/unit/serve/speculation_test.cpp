#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "runtime/speculation/speculator.h"
#include "unit/runtime/tiny_model.h"
#include "unit/serve/collector.h"

// The law of the server with drafts: an answer is its own, to the bit, whatever is drafted of it and of its neighbours.
namespace coterie::serve {
namespace {

using runtime::test::fixture;
using test::Answer;
using test::ids_of;
using test::Served;

/// Knows how texts go on, and is wrong about a token as often as asked.
class KnowingDrafter final : public runtime::Drafter {
 public:
  KnowingDrafter(const std::vector<std::vector<TokenId>>& texts, double wrong, uint64_t seed)
      : texts_(texts), wrong_(wrong), rng_(seed) {}
  runtime::Draft propose(std::span<const TokenId> tokens, int64_t most, const runtime::Sampler&) override {
    runtime::Draft draft;
    for (const std::vector<TokenId>& text : texts_) {
      if (text.size() < tokens.size() || !std::equal(tokens.begin(), tokens.end(), text.begin())) continue;
      for (size_t at = tokens.size(); at < text.size() && std::ssize(draft.tokens) < most; ++at)
        draft.tokens.push_back(rng_.uniform_double() < wrong_ ? static_cast<TokenId>(rng_.below(60)) : text[at]);
      break;
    }
    return draft;
  }
  bool is_free() const override { return true; }

 private:
  const std::vector<std::vector<TokenId>>& texts_;
  double wrong_;
  base::Rng rng_;
};

Request request_of(uint64_t number, bool experts) {
  base::Rng rng(number + 500);
  Request request;
  request.prompt = ids_of(5 + static_cast<int64_t>(rng.below(50)), number % 4);  // some are alike
  request.max_tokens = 5 + static_cast<int64_t>(rng.below(40));
  request.ignore_end = true;
  request.sampler.temperature = rng.below(3) == 0 ? 0 : 1;
  request.sampler.seed = number;
  if (rng.below(2) == 0) request.sampler.repeat_penalty = 1.2;
  request.logprobs = static_cast<int64_t>(rng.below(4)) - 1;
  request.routed_experts = experts;
  return request;
}

void expect_same(const Answer& answer, const Answer& alone, uint64_t number) {
  ASSERT_TRUE(answer.finished) << (answer.failed ? answer.failed->message : "it never ended");
  EXPECT_EQ(answer.ids, alone.ids) << number;
  EXPECT_EQ(answer.text, alone.text);
  EXPECT_EQ(answer.logprobs, alone.logprobs) << number;
  EXPECT_EQ(answer.finished->reason, alone.finished->reason);
  EXPECT_EQ(answer.finished->routed_experts.positions, alone.finished->routed_experts.positions);
  EXPECT_EQ(answer.finished->routed_experts.experts, alone.finished->routed_experts.experts) << number;
  ASSERT_EQ(answer.top.size(), alone.top.size());
  for (size_t i = 0; i < answer.top.size(); ++i) {
    ASSERT_EQ(answer.top[i].size(), alone.top[i].size());
    for (size_t j = 0; j < answer.top[i].size(); ++j) {
      EXPECT_EQ(answer.top[i][j].id, alone.top[i][j].id);
      EXPECT_EQ(answer.top[i][j].logprob, alone.top[i][j].logprob);
    }
  }
}

class ServedSpeculation : public testing::TestWithParam<const char*> {};

TEST_P(ServedSpeculation, ChangesNoBitOfAnAnswer) {
  constexpr uint64_t kCount = 12;
  runtime::EngineOptions engine;
  engine.threads = 1, engine.context = 256, engine.drafted = 6;
  const std::string family = GetParam();
  const bool experts = family != "mamba2" && family != "zamba2";  // which have none
  std::vector<Answer> alone;
  std::vector<std::vector<TokenId>> texts;
  {
    Served served(families::open_model(fixture(GetParam())), {}, engine);
    for (uint64_t i = 0; i < kCount; ++i) {
      alone.push_back(served.run(request_of(i, experts)));
      texts.push_back(request_of(i, experts).prompt);
      texts.back().insert(texts.back().end(), alone.back().ids.begin(), alone.back().ids.end());
    }
  }
  runtime::StepSeconds costs;
  uint64_t made = 0;
  SchedulerOptions options;
  options.parallel = 5;
  options.speculator = [&] {
    auto speculator =
        std::make_unique<runtime::Speculator>(std::make_unique<KnowingDrafter>(texts, 0.25, made), 6, costs);
    speculator->always(static_cast<int64_t>(made++ % 4));  // one in four decides by what it costs
    return speculator;
  };
  Served served(families::open_model(fixture(GetParam())), options, engine);
  for (int round = 0; round < 2; ++round) {  // the second finds prompts, and answers, in the cache
    std::vector<std::shared_ptr<test::Collector>> answers;
    for (uint64_t i = 0; i < kCount; ++i) answers.push_back(served.submit(request_of(i, experts)).second);
    for (uint64_t i = 0; i < kCount; ++i) expect_same(answers[i]->wait(), alone[i], i);
  }
  const Counters counters = served.settled().counters;
  EXPECT_GT(counters.accepted_tokens, 50U);
  EXPECT_LT(counters.accepted_tokens, counters.drafted_tokens);
  EXPECT_LT(counters.decode_only_steps, counters.generated_tokens);
}

INSTANTIATE_TEST_SUITE_P(Families, ServedSpeculation, testing::Values("mixtral", "mamba2", "qwen3-next", "zamba2"),
                         [](const auto& each) {
                           std::string name = each.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace coterie::serve
